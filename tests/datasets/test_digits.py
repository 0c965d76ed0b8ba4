import numpy as np
from sklearn.datasets import load_digits

from stages.datasets import digits
from stages.datasets.drawings import to_mnist_form


def test_digits_have_the_form_of_mnist():
    every, labels, test = digits.load(seed=0)
    assert (every.shape, test.sum()) == ((1797, 1, 28, 28), 297)
    assert (every.dtype, labels.dtype, test.dtype) == (np.uint8, np.int64, bool)
    assert set(labels[test]) == set(labels[~test]) == set(range(10))
    # As in the official files: ink inside a 20x20 box, its centre of mass at 14 on both axes.
    for ink in (every.sum(axis=(1, 2), dtype=float), every.sum(axis=(1, 3), dtype=float)):
        centre = (ink * np.arange(28)).sum(axis=1) / ink.sum(axis=1)
        assert np.abs(centre - 14).max() <= 1.0
        assert abs(centre.mean() - 14) < 0.1
        assert max(np.ptp(np.flatnonzero(row)) for row in ink) < 20


def test_the_set_is_scikit_learns_in_its_order():
    whole = load_digits()
    laid_out = [to_mnist_form(np.uint8(np.round(image * 255 / 16))) for image in whole.images]
    images, labels, _ = digits.load(seed=0)
    assert np.array_equal(images[:, 0], laid_out)
    assert np.array_equal(labels, whole.target)


def test_the_test_set_of_digits_depends_on_the_seed_alone():
    once, again, other = (digits.load(seed)[2] for seed in (0, 0, 1))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
