"""scikit-learn's embedded set of 1,797 handwritten digits, brought to MNIST's form."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from stages.datasets.layout import to_mnist_form

TEST_SIZE = 297  # leaves 1,500 for training


def load(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a training and a test set, each as images uint8 [N, 28, 28], labels uint8 [N].

    N is 1,500 and 297; 0 is paper, 255 is ink. The set has no official division: the test set is
    drawn by `seed`, stratified by label.
    """
    digits = load_digits()
    eight_by_eight = np.round(digits.images * (255 / 16)).astype(np.uint8)  # from 0…16
    images = np.stack([to_mnist_form(image) for image in eight_by_eight])
    labels = digits.target.astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SIZE, random_state=seed, stratify=labels
    )
    train.sort()
    test.sort()
    return (images[train], labels[train]), (images[test], labels[test])
