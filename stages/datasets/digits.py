"""scikit-learn's embedded set of 1,797 handwritten digits, brought to MNIST's form."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from stages.datasets.layout import to_mnist_form

TEST_SIZE = 297  # leaves 1,500 for training


def load(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images uint8 [1797, 28, 28], labels int64 [1797], and the test set, bool [1797].

    0 is paper, 255 is ink. The set has no official division: the 297 images of the test set are drawn
    by `seed`, stratified by label.
    """
    digits = load_digits()
    eight_by_eight = np.round(digits.images * (255 / 16)).astype(np.uint8)  # from 0…16
    images = np.stack([to_mnist_form(image) for image in eight_by_eight])
    labels = digits.target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    _, drawn = train_test_split(
        np.arange(len(labels)), test_size=TEST_SIZE, random_state=seed, stratify=labels
    )
    test[drawn] = True
    return images, labels, test
