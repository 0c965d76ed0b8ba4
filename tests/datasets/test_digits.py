import numpy as np
from sklearn.datasets import load_digits

from stages.datasets import digits
from stages.datasets.layout import to_mnist_form


def test_digits_have_the_form_of_mnist():
    (images, labels), (test_images, test_labels) = digits.load(seed=0)
    assert (images.shape, test_images.shape) == ((1500, 28, 28), (297, 28, 28))
    assert {part.dtype.name for part in (images, labels, test_images, test_labels)} == {"uint8"}
    assert set(labels) == set(test_labels) == set(range(10))
    every = np.concatenate([images, test_images])
    # As in the official files: ink inside a 20x20 box, its centre of mass at 14 on both axes.
    for ink in (every.sum(axis=1, dtype=float), every.sum(axis=2, dtype=float)):
        centre = (ink * np.arange(28)).sum(axis=1) / ink.sum(axis=1)
        assert np.abs(centre - 14).max() <= 1.0
        assert abs(centre.mean() - 14) < 0.1
        assert max(np.ptp(np.flatnonzero(row)) for row in ink) < 20


def test_the_test_set_is_a_part_of_scikit_learns_set_in_its_order():
    whole = load_digits()
    laid_out = [to_mnist_form(np.uint8(np.round(image * 255 / 16))) for image in whole.images]
    place = {image.tobytes(): index for index, image in enumerate(laid_out)}
    assert len(place) == 1797
    _, (images, labels) = digits.load(seed=0)
    order = [place[image.tobytes()] for image in images]
    assert order == sorted(order)
    assert np.array_equal(labels, whole.target[order])


def test_the_test_set_of_digits_depends_on_the_seed_alone():
    once, again, other = (digits.load(seed)[1][0] for seed in (0, 0, 1))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
