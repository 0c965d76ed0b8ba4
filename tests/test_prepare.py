import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from stages.datasets import digits, idx
from stages.prepare import METRICS, SAMPLES, main
from stages.runtime.errors import UserError
from stages.runtime.splits import TEST, TRAIN, VALIDATION, load_split
from tests.project import ROOT, change
from tests.samples import random_pictures, read_drawing, read_sheet, run_stage


@pytest.fixture
def digits_params(params_file: Path) -> Path:
    change(params_file, "dataset: mnist", "dataset: digits")
    return params_file


@pytest.mark.parametrize(("size", "held_out"), [("0.1", 150), ("100", 100), ("0", 0)])
def test_each_image_is_stored_in_one_split(
    digits_params: Path, capsys: pytest.CaptureFixture[str], size: str, held_out: int
):
    change(digits_params, "size: 0.1", f"size: {size}")
    run_stage(main)
    assert capsys.readouterr().out == (
        f"digits: {1500 - held_out:,} training, {held_out} validation, 297 test images "
        "of 10 classes\n"
    )
    stored = set()
    for path, count in ((TRAIN, 1500 - held_out), (VALIDATION, held_out), (TEST, 297)):
        arrays = safetensors.numpy.load_file(path)
        assert (arrays["images"].shape, arrays["labels"].shape) == ((count, 1, 28, 28), (count,))
        assert (arrays["images"].dtype, arrays["labels"].dtype) == (np.uint8, np.int64)
        stored |= {
            (image.tobytes(), label, path == TEST)
            for image, label in zip(arrays["images"], arrays["labels"].tolist(), strict=True)
        }
    images, labels, test = digits.load(seed=0)
    assert stored == {
        (image.tobytes(), *rest)
        for image, *rest in zip(images, labels.tolist(), test.tolist(), strict=True)
    }


def test_each_split_records_its_data_set(digits_params: Path):
    run_stage(main)
    images, labels, _ = digits.load(seed=0)
    checksum = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    for path in (TRAIN, VALIDATION, TEST):
        about = load_split(path).dataset
        assert (about["name"], about["sha256"]) == ("digits", checksum)
        assert about["classes"] == list("0123456789")
        assert about["licence"] == "CC BY 4.0"


def test_metrics_and_samples_describe_the_splits(digits_params: Path):
    run_stage(main)
    metrics = json.loads(METRICS.read_text())
    assert "near_duplicates" not in metrics  # of a published set
    assert (metrics["classes"], metrics["equal_images"], metrics["unreadable_images"]) == (10, 0, 0)
    for path in (TRAIN, VALIDATION, TEST):
        split = load_split(path)
        each = np.bincount(split.labels)
        assert metrics[path.stem] == {
            "images": len(split),
            "smallest_class": each.min(),
            "largest_class": each.max(),
            "pixel_mean": pytest.approx(split.images.double().mean().item()),
            "pixel_deviation": pytest.approx(split.images.double().std(correction=0).item()),
        }


def test_samples_are_drawn_from_all_images_of_a_class(digits_params: Path):
    """They were the first ten files, which are often of one source."""
    run_stage(main)
    training = load_split(TRAIN)
    picture, names = read_sheet(SAMPLES.read_bytes())
    assert names == list("0123456789")
    sheet = np.asarray(picture)
    assert sheet.shape == (10 * 67, 10 * 44)
    for label in range(10):
        images = 255 - training.images[training.labels == label].numpy()[:, 0]
        drawn = [
            Image.fromarray(image).resize((36, 36), Image.Resampling.BICUBIC).tobytes()
            for image in images
        ]
        cells = [sheet[label * 67 + 4 :, column * 44 + 4 :][:36, :36] for column in range(10)]
        places = [drawn.index(cell.tobytes()) for cell in cells]
        assert len(set(places)) == 10
        assert max(places) >= 50


def test_the_test_set_knows_the_files_of_its_pictures(params_file: Path):
    change(params_file, "dataset: mnist", "dataset: symbols")
    shutil.copytree(ROOT / "data/symbols", "data/symbols")
    run_stage(main)
    test = load_split(TEST)
    assert test.paths is not None and len(set(test.paths)) == len(test) == 40
    for path, image, label in zip(test.paths, test.images, test.labels, strict=True):
        assert Path(path).parent == Path("data/symbols", test.classes[label])
        assert np.array_equal(read_drawing(io.BytesIO(Path(path).read_bytes())), image[0])
    assert load_split(TRAIN).paths is None  # else a new name of a file would train again


def test_near_duplicates_of_test_pictures_are_a_warning(
    params_file: Path, capsys: pytest.CaptureFixture[str], explained: Callable[[str], None]
):
    change(params_file, "dataset: mnist", "dataset: mine")
    for number, picture in enumerate(random_pictures(60)):
        split = "train" if number < 40 else "test"
        path = Path(f"data/mine/{split}/{'ab'[number % 2]}/{number:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        if number < 7:
            path = Path(f"data/mine/test/a/copy {number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=90)
    run_stage(main)
    warnings = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")
    ]
    assert warnings == [
        *(
            f"warning: data/mine/test/a/copy {number}.jpg and data/mine/train/{'ab'[number % 2]}/"
            f"{number:02}.png: nearly the same picture, in the test set and outside of it, so the test "
            "accuracy may be too high; remove one"
            for number in range(5)
        ),
        "warning: 2 more test pictures are nearly the same as another picture",
    ]
    explained("\n".join(warnings))
    assert json.loads(METRICS.read_text())["near_duplicates"] == 7


@pytest.mark.parametrize(
    ("key", "value"),
    [("test_share", "0.3"), ("layout", "drawing"), ("size", "32"), ("skip_unreadable", "True")],
)
def test_a_parameter_that_does_not_apply_is_refused(digits_params: Path, key: str, value: str):
    change(digits_params, f"{key}:  ", f"{key}: {value} ")
    with pytest.raises(
        UserError, match=rf"prepare\.{key}: {value} does not apply to digits, .*null"
    ):
        run_stage(main)


def test_earlier_data_stay_if_mnist_is_not_available(
    params_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(idx, "CACHE", Path("cache"))
    earlier = Path("data/prepared/train.safetensors")
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    monkeypatch.setenv("MNIST_MIRROR", "/nowhere")
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte\.gz is not available from /nowhere/mnist"
    ):
        run_stage(main)
    assert earlier.read_bytes() == b"earlier"
    assert sorted(Path("data/prepared").iterdir()) == [earlier]
