"""Reading published sets in MNIST's form."""

import gzip
import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages.datasets import idx
from stages.datasets.description import Description
from stages.runtime.errors import UserError
from tests.project import ROOT, needs_mnist
from tests.samples import random_images

MNIST = yaml.safe_load((ROOT / "data/mnist/dataset.yaml").read_text())


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "CACHE", tmp_path_factory.mktemp("cache"))


@needs_mnist
def test_load_returns_the_official_sets(in_empty_folder: Path):
    images, labels, test = idx.load("mnist", Description(**MNIST))
    assert (images.shape, images.dtype, labels.dtype) == ((70_000, 1, 28, 28), np.uint8, np.int64)
    assert test.tolist() == [False] * 60_000 + [True] * 10_000
    # Published with MNIST and torchvision: the first labels, and the mean ink of 0.1307.
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert labels[60_000:60_005].tolist() == [7, 2, 1, 0, 4]
    assert round(images[~test].mean() / 255, 4) == 0.1307


def idx_file(values: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + values.ndim}I", 2048 + values.ndim, *values.shape)
    return gzip.compress(header + values.tobytes())


def letters_in_a_mirror(
    contents: Sequence[bytes], monkeypatch: pytest.MonkeyPatch, **changes: object
) -> Description:
    """Put the four files of a set called letters into a folder, which becomes the mirror."""
    Path("mirror/letters").mkdir(parents=True)
    checksums = {}
    for name, content in zip(MNIST["files"], contents, strict=True):
        Path("mirror/letters", name).write_bytes(content)
        checksums[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("MNIST_MIRROR", "mirror")
    return Description(**MNIST | {"files": checksums} | changes)


def test_another_set_of_this_form_needs_no_code(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    images, labels = random_images(9).numpy(), np.arange(9, dtype=np.uint8) % 3
    contents = [
        idx_file(values) for values in (images[:6, 0], labels[:6], images[6:, 0], labels[6:])
    ]
    description = letters_in_a_mirror(contents, monkeypatch, classes=["a", "b", "c"])
    loaded = idx.load("letters", description)
    for values, expected in zip(loaded, (images, labels, np.arange(9) >= 6), strict=True):
        assert np.array_equal(values, expected)
    with pytest.raises(UserError, match="2 classes, labels up to 2"):
        idx.load("letters", description.model_copy(update={"classes": ["a", "b"]}))


@pytest.mark.parametrize(
    "content",
    [
        idx_file(random_images(6).numpy()[:, 0, :14, :14]),
        gzip.compress(struct.pack(">4I", 2051, 2**32 - 1, 28, 28) + bytes(100)),
        gzip.compress(b""),
        idx_file(np.zeros((6, 1), np.uint8)),
        idx_file(np.uint8(5)),
        gzip.compress(b"no IDX"),
        b"no gzip",
        gzip.compress(bytes(1000))[:-9],
        gzip.compress(bytes(1000))[:12] + b"\xff" * 20,
    ],
    ids=[
        "small",
        "false_header",
        "empty",
        "a_table",
        "a_number",
        "no_idx",
        "no_gzip",
        "truncated",
        "damaged",
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_a_file_in_another_form_is_one_line(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, place: int
):
    contents = [idx_file(random_images(6).numpy()), idx_file(np.zeros(6, np.uint8))] * 2
    contents[place] = content
    description = letters_in_a_mirror(contents, monkeypatch)
    with pytest.raises(UserError, match=r"^data/letters/dataset\.yaml: its files are not in MNIST"):
        idx.load("letters", description)
