from pathlib import Path

import prepare
from common import digits
from common.errors import UserError
from common.mnist_form import to_mnist_form
from prepare import split_validation

import numpy as np
import pytest
import safetensors.numpy
from conftest import change

LABELS = np.repeat(np.arange(10, dtype=np.uint8), 30)


def test_the_split_takes_each_image_once_and_each_class_alike():
    train, validation = split_validation(LABELS, size=50, seed=0)
    assert sorted([*train, *validation]) == list(range(300))
    assert np.bincount(LABELS[validation]).tolist() == [5] * 10
    assert train.tolist() == sorted(train)
    assert validation.tolist() == sorted(validation)


def test_the_split_depends_on_the_seed_alone():
    once, again, other = (split_validation(LABELS, size=50, seed=seed)[1] for seed in (0, 0, 1))
    assert once.tolist() == again.tolist()
    assert once.tolist() != other.tolist()


def test_a_split_of_nothing_keeps_every_image():
    train, validation = split_validation(LABELS, size=0, seed=0)
    assert train.tolist() == list(range(300))
    assert len(validation) == 0


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


def test_the_test_set_of_digits_depends_on_the_seed_alone():
    once, again, other = (digits.load(seed)[1][0] for seed in (0, 0, 1))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


@pytest.mark.parametrize(
    ("shape", "box"),
    [((40, 10), (20, 5)), ((10, 40), (5, 20)), ((3, 3), (20, 20)), ((200, 1), (20, 1))],
)
def test_a_digit_of_any_shape_fills_the_box(shape: tuple[int, int], box: tuple[int, int]):
    image = np.pad(np.full(shape, 255, dtype=np.uint8), ((3, 0), (0, 9)))
    field = to_mnist_form(image)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == box
    assert field.max() == 255
    # A box of even size lies half a pixel off the centre.
    assert abs(rows.mean() - 14) <= 0.5
    assert abs(columns.mean() - 14) <= 0.5


@pytest.mark.parametrize(("size", "held_back"), [(5000, 250), (100, 100), (0, 0)])
def test_prepare_stores_the_splits(
    params_file: Path, capsys: pytest.CaptureFixture[str], size: int, held_back: int
):
    change(params_file, "dataset: mnist", "dataset: digits")
    change(params_file, "size: 5000", f"size: {size}")
    prepare.main()
    cut = f"prepare.validation_size: cut from {size} to {held_back}\n"
    assert capsys.readouterr().out == (cut if size > held_back else "") + (
        f"digits: {1500 - held_back:,} training, {held_back} validation, 297 test images\n"
    )
    for split, count in (("train", 1500 - held_back), ("validation", held_back), ("test", 297)):
        arrays = safetensors.numpy.load(Path(f"data/prepared/{split}.safetensors").read_bytes())
        assert sorted(arrays) == ["images", "labels"]
        assert arrays["images"].shape == (count, 28, 28)
        assert arrays["labels"].shape == (count,)
        assert arrays["images"].dtype == arrays["labels"].dtype == np.uint8


def test_without_mnist_prepare_keeps_earlier_data(
    params_file: Path, monkeypatch: pytest.MonkeyPatch
):
    earlier = Path("data/prepared/train.safetensors")
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    monkeypatch.setenv("MNIST_MIRROR", "/nowhere")
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte\.gz could not be had from /nowhere"
    ):
        prepare.main()
    assert earlier.read_bytes() == b"earlier"
