import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from stages.common.errors import UserError
from stages.common.params import PrepareParams
from stages.common.splits import TEST, TRAIN, VALIDATION, load_split
from stages.datasets import digits, idx
from stages.datasets.dataset import Dataset
from stages.datasets.dividing import allot, divide, draw
from stages.prepare import METRICS, SAMPLES, main
from tests.project import change
from tests.samples import run_stage

ARRAYS = ("images", "labels")
LABELS = np.repeat(np.arange(10), 30)


def dataset_of(labels: np.ndarray = LABELS, copies: int = 0) -> Dataset:
    """A set of images that all differ, but for the first ones, which stand there once more."""
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 0, :2] = np.stack(np.divmod(np.arange(len(labels)), 256), axis=1)
    images[len(labels) - copies :] = images[:copies]
    classes = [f"class {label}" for label in range(labels.max() + 1)]
    return Dataset(images, labels, None, {"name": "letters", "classes": classes})


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    """Return the images with their labels, in an order that does not depend on theirs."""
    return sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("amount", [50, 1 / 6])
def test_the_draw_takes_each_image_once_and_each_class_alike(amount: float):
    rest, drawn = draw(dataset_of(), np.arange(300), ("validation_size", amount), 0)
    assert sorted([*rest, *drawn]) == list(range(300))
    assert np.bincount(LABELS[drawn]).tolist() == [5] * 10
    assert rest.tolist() == sorted(rest)
    assert drawn.tolist() == sorted(drawn)


def test_the_draw_depends_on_the_seed_alone():
    once, again, other = (
        draw(dataset_of(), np.arange(300), ("validation_size", 50), seed)[1] for seed in (0, 0, 1)
    )
    assert once.tolist() == again.tolist()
    assert once.tolist() != other.tolist()


def test_a_draw_of_nothing_keeps_every_image():
    rest, drawn = draw(dataset_of(), np.arange(300), ("validation_size", 0), 0)
    assert rest.tolist() == list(range(300))
    assert len(drawn) == 0


@pytest.mark.parametrize("seed", range(5))
def test_equal_images_are_on_one_side(seed: int):
    dataset = dataset_of(np.arange(300) % 10, copies=100)
    params = PrepareParams(
        dataset="letters",
        validation_size=0.2,
        seed=seed,
        test_share=0.3,
        layout=None,
        skip_unreadable=None,
    )
    parts = [set(dataset.first[indices]) for indices in divide(dataset, params)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 200


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("left", [1, 2])
def test_a_small_class_is_in_every_part(share: float, left: int):
    each = np.array([300, 3, 40])
    counts = allot(each, share, left)
    assert (counts >= 1).all()
    assert (each - counts >= left).all()
    assert abs(counts.sum() - 343 * share) <= 1
    labels = np.repeat([0, 1, 2], each)
    rest, drawn = draw(dataset_of(labels), np.arange(343), ("test_share", share), 0, left)
    assert np.bincount(labels[drawn]).tolist() == counts.tolist()
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
def test_a_set_that_is_too_small_is_one_line(amount: float, labels: np.ndarray, line: str):
    with pytest.raises(UserError, match=line):
        draw(dataset_of(labels), np.arange(len(labels)), ("validation_size", amount), 0)


@pytest.mark.parametrize(("size", "held_back"), [("0.1", 150), ("100", 100), ("0", 0)])
def test_prepare_stores_the_splits(
    params_file: Path, capsys: pytest.CaptureFixture[str], size: str, held_back: int
):
    change(params_file, "dataset: mnist", "dataset: digits")
    change(params_file, "size: 0.1", f"size: {size}")
    run_stage(main)
    assert capsys.readouterr().out == (
        f"digits: {1500 - held_back:,} training, {held_back} validation, 297 test images "
        "of 10 classes\n"
    )
    splits = {}
    for split, count in (("train", 1500 - held_back), ("validation", held_back), ("test", 297)):
        splits[split] = arrays = safetensors.numpy.load_file(f"data/prepared/{split}.safetensors")
        assert sorted(arrays) == ["images", "labels"]
        assert arrays["images"].shape == (count, 28, 28)
        assert arrays["labels"].shape == (count,)
        assert (arrays["images"].dtype, arrays["labels"].dtype) == (np.uint8, np.int64)
    images, labels, test = digits.load(seed=0)
    held = [splits["train"], splits["validation"]]
    assert pairs(*(np.concatenate([part[name] for part in held]) for name in ARRAYS)) == pairs(
        images[~test], labels[~test]
    )
    assert pairs(*(splits["test"][name] for name in ARRAYS)) == pairs(images[test], labels[test])


def test_each_split_says_of_which_data_set_it_is(params_file: Path):
    change(params_file, "dataset: mnist", "dataset: digits")
    run_stage(main)
    images, labels, _ = digits.load(seed=0)
    whole = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    for path in (TRAIN, VALIDATION, TEST):
        about = load_split(path).dataset
        assert (about["name"], about["sha256"]) == ("digits", whole)
        assert about["classes"] == list("0123456789")
        assert about["licence"] == "CC BY 4.0"


def test_the_data_can_be_seen(params_file: Path):
    change(params_file, "dataset: mnist", "dataset: digits")
    run_stage(main)
    metrics = json.loads(METRICS.read_text())
    assert (metrics["classes"], metrics["equal_images"], metrics["unreadable_images"]) == (10, 0, 0)
    for path in (TRAIN, VALIDATION, TEST):
        split, found = load_split(path), metrics[path.stem]
        each = np.bincount(split.labels)
        assert found["images"] == len(split)
        assert (found["smallest_class"], found["largest_class"]) == (each.min(), each.max())
        assert found["pixel_mean"] == pytest.approx(split.images.double().mean().item())
        deviation = split.images.double().std(correction=0).item()
        assert found["pixel_deviation"] == pytest.approx(deviation)
    training = load_split(TRAIN)
    sheet = np.asarray(Image.open(SAMPLES))
    assert sheet.shape == (10 * 111, 10 * 100)
    for label, column in ((0, 0), (3, 9), (9, 5)):
        shown = sheet[label * 111 + 8 :, column * 100 + 8 :][:84:3, :84:3]
        image = training.images[training.labels == label][column]
        assert np.array_equal(shown, 255 - image.numpy())


@pytest.mark.parametrize(
    ("key", "value"),
    [("test_share", "0.3"), ("layout", "mnist"), ("layout", "resize"), ("skip_unreadable", "True")],
)
def test_a_parameter_that_does_not_count_is_refused(params_file: Path, key: str, value: str):
    change(params_file, "dataset: mnist", "dataset: digits")
    change(params_file, f"{key}:  ", f"{key}: {value} ")
    with pytest.raises(
        UserError, match=rf"prepare\.{key}: {value} does not count for digits, .*null"
    ):
        run_stage(main)


def test_without_mnist_prepare_keeps_earlier_data(
    params_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(idx, "CACHE", Path("cache"))
    earlier = Path("data/prepared/train.safetensors")
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    monkeypatch.setenv("MNIST_MIRROR", "/nowhere")
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte\.gz could not be had from /nowhere/mnist"
    ):
        run_stage(main)
    assert earlier.read_bytes() == b"earlier"
    assert sorted(Path("data/prepared").iterdir()) == [earlier]
