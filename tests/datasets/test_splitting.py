import numpy as np
import pytest

from stages.datasets.dataset import Dataset
from stages.datasets.params import PrepareParams
from stages.datasets.splitting import allocate, hold_out, split
from stages.runtime.errors import UserError

LABELS = np.repeat(np.arange(10), 30)
EVERY_IMAGE = np.arange(300)


def dataset_of(labels: np.ndarray = LABELS, copies: int = 0) -> Dataset:
    """Return a set of different images; the last ones may be copies of the first."""
    images = np.zeros((len(labels), 1, 28, 28), np.uint8)
    images[:, 0, 0, :2] = np.stack(np.divmod(np.arange(len(labels)), 256), axis=1)
    images[len(labels) - copies :] = images[:copies]
    classes = [f"class {label}" for label in range(labels.max() + 1)]
    return Dataset(images, labels, None, {"name": "letters", "classes": classes})


@pytest.mark.parametrize("amount", [50, 1 / 6])
def test_each_image_is_on_one_side_and_each_class_has_the_same_share(amount: float):
    rest, held_out = hold_out(dataset_of(), EVERY_IMAGE, ("validation_size", amount), 0)
    assert sorted([*rest, *held_out]) == EVERY_IMAGE.tolist()
    assert np.bincount(LABELS[held_out]).tolist() == [5] * 10
    assert rest.tolist() == sorted(rest)
    assert held_out.tolist() == sorted(held_out)


def test_the_seed_alone_decides():
    first, same, different = (
        hold_out(dataset_of(), EVERY_IMAGE, ("validation_size", 50), seed)[1] for seed in (0, 0, 1)
    )
    assert first.tolist() == same.tolist()
    assert first.tolist() != different.tolist()


def test_an_amount_of_0_keeps_every_image():
    rest, held_out = hold_out(dataset_of(), EVERY_IMAGE, ("validation_size", 0), 0)
    assert rest.tolist() == EVERY_IMAGE.tolist()
    assert len(held_out) == 0


@pytest.mark.parametrize("seed", range(5))
def test_equal_images_stay_in_one_split(seed: int):
    dataset = dataset_of(np.arange(300) % 10, copies=100)
    params = PrepareParams(
        dataset="letters",
        validation_size=0.2,
        seed=seed,
        test_share=0.3,
        layout=None,
        size=None,
        skip_unreadable=None,
    )
    splits = [set(dataset.first[indices]) for indices in split(dataset, params)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 200


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("left", [1, 2])
def test_a_small_class_is_in_every_split(share: float, left: int):
    each = np.array([300, 3, 40])
    counts = allocate(each, share, left)
    assert (counts >= 1).all()
    assert (each - counts >= left).all()
    assert abs(counts.sum() - 343 * share) <= 1
    labels = np.repeat([0, 1, 2], each)
    rest, held_out = hold_out(dataset_of(labels), np.arange(343), ("test_share", share), 0, left)
    assert np.bincount(labels[held_out]).tolist() == counts.tolist()
    assert np.bincount(labels[rest]).tolist() == (each - counts).tolist()


@pytest.mark.parametrize(
    ("amount", "labels", "line"),
    [
        (5000, LABELS, r"5000 of 300 pictures of 10 classes: use 0, a share of 0\.034 to 0\.966"),
        (291, LABELS, r"291 of 300 .* share of 0\.034 to 0\.966, or 11 to 289 pictures$"),
        (0.01, LABELS, r"0\.01 of 300 .*: use 0, a share of 0\.034 to 0\.966"),
        (0.1, np.array([0, 0, 1]), r"^data/letters: the class class 1 has 1 different pictures"),
        (0.1, np.array([0, 0, 2, 2]), r"^data/letters: the class class 1 has 0 different pictures"),
    ],
)
def test_too_small_a_set_is_one_line(amount: float, labels: np.ndarray, line: str):
    with pytest.raises(UserError, match=line):
        hold_out(dataset_of(labels), np.arange(len(labels)), ("validation_size", amount), 0)
