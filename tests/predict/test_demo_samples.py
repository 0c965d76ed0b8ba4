"""The test images that the demo's page offers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from predict.demo.samples import load_samples
from tests.samples import DATASET, random_images, store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A test set of 15 images, of three classes of ten."""
    store(tmp_path / "test.safetensors", random_images(15), torch.arange(15) % 3 + 4)
    return tmp_path / "test.safetensors"


def test_the_first_image_of_each_class(path: Path):
    samples = load_samples(path, DATASET)
    assert [label for label, _ in samples] == [4, 5, 6]
    for (_, image), expected in zip(samples, random_images(15), strict=False):
        assert np.array_equal(image, expected)


def test_no_images_of_another_data_set(path: Path):
    assert load_samples(path, DATASET | {"sha256": "1" * 64}) == []


@pytest.mark.parametrize("content", [None, b"", b"text", b"\0" * 100])
def test_no_images_of_a_missing_or_damaged_file(tmp_path: Path, content: bytes | None):
    path = tmp_path / "test.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert load_samples(path, DATASET) == []


def test_no_images_of_a_file_with_a_flipped_bit(path: Path):
    """safetensors has no checksum: the page showed another picture."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert load_samples(path, DATASET) == []


def test_no_images_with_a_label_outside_of_the_classes(tmp_path: Path):
    """The page was answered with status 500."""
    path = tmp_path / "test.safetensors"
    store(path, random_images(2), torch.tensor([0, 10]))
    assert load_samples(path, DATASET) == []
