"""scikit-learn's embedded set of 1,797 handwritten digits, laid out as MNIST's."""

import numpy as np

from stages.datasets.drawings import to_mnist_form

TEST_SIZE = 297  # leaves 1,500 for training


def load(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images uint8 [1797, 1, 28, 28], labels int64 [1797], and the test set's mask, bool [1797].

    0 is paper, 255 is ink. The set has no official split: `seed` chooses the 297 images of the test
    set, stratified by label.
    """
    from sklearn.datasets import load_digits  # here, since other sets need none of it
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    eight_by_eight = np.round(digits.images * (255 / 16)).astype(np.uint8)  # from 0…16
    images = np.stack([to_mnist_form(image) for image in eight_by_eight])
    labels = digits.target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    _, chosen = train_test_split(
        np.arange(len(labels)), test_size=TEST_SIZE, random_state=seed, stratify=labels
    )
    test[chosen] = True
    return images[:, None], labels, test
