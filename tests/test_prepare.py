import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from stages.common.errors import UserError
from stages.common.splits import TEST, TRAIN, VALIDATION, load_split
from stages.datasets import digits, mnist
from stages.prepare import main, split_validation
from tests.project import change
from tests.samples import run_stage

ARRAYS = ("images", "labels")
LABELS = np.repeat(np.arange(10, dtype=np.uint8), 30)


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    """Return the images with their labels, in an order that does not depend on theirs."""
    return sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))


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


@pytest.mark.parametrize(("size", "held_back"), [(5000, 250), (100, 100), (0, 0)])
def test_prepare_stores_the_splits(
    params_file: Path, capsys: pytest.CaptureFixture[str], size: int, held_back: int
):
    change(params_file, "dataset: mnist", "dataset: digits")
    change(params_file, "size: 5000", f"size: {size}")
    run_stage(main)
    cut = f"prepare.validation_size: cut from {size} to {held_back}\n"
    assert capsys.readouterr().out == (cut if size > held_back else "") + (
        f"digits: {1500 - held_back:,} training, {held_back} validation, 297 test images\n"
    )
    splits = {}
    for split, count in (("train", 1500 - held_back), ("validation", held_back), ("test", 297)):
        splits[split] = arrays = safetensors.numpy.load_file(f"data/prepared/{split}.safetensors")
        assert sorted(arrays) == ["images", "labels"]
        assert arrays["images"].shape == (count, 28, 28)
        assert arrays["labels"].shape == (count,)
        assert arrays["images"].dtype == arrays["labels"].dtype == np.uint8
    training, test = digits.load(seed=0)
    held = [splits["train"], splits["validation"]]
    assert pairs(*(np.concatenate([part[name] for part in held]) for name in ARRAYS)) == pairs(
        *training
    )
    assert pairs(*(splits["test"][name] for name in ARRAYS)) == pairs(*test)


def test_each_split_says_of_which_data_set_it_is(params_file: Path):
    change(params_file, "dataset: mnist", "dataset: digits")
    run_stage(main)
    training, test = digits.load(seed=0)
    whole = hashlib.sha256(b"".join(array.tobytes() for array in (*training, *test))).hexdigest()
    for path in (TRAIN, VALIDATION, TEST):
        assert load_split(path).dataset == {"name": "digits", "sha256": whole}


def test_without_mnist_prepare_keeps_earlier_data(
    params_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mnist, "CACHE", Path("cache"))
    earlier = Path("data/prepared/train.safetensors")
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    monkeypatch.setenv("MNIST_MIRROR", "/nowhere")
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte\.gz could not be had from /nowhere"
    ):
        run_stage(main)
    assert earlier.read_bytes() == b"earlier"
