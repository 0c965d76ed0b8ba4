import json
import os
import subprocess
import sys
from pathlib import Path

from common.arrays import Split, load_split, save_split
from common.errors import UserError

import numpy as np
import pytest
import safetensors.numpy
import torch
from conftest import DATASET, ROOT

PATH = Path("data/prepared/train.safetensors")
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
LABELS = np.arange(30, dtype=np.uint8) % 10
MEMORY = f"""
import sys; sys.path.insert(0, {str(ROOT / "stages")!r})
from common.arrays import load_split
import resource, torch
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
split = load_split("train")
split.take(torch.randperm(len(split))[:1000])
print(peak())
for indices in torch.randperm(len(split))[:20_000].split(1000): split.take(indices)
for images in split.batches(1000): pass
print(peak())
"""


@pytest.fixture
def stored(in_empty_folder: Path) -> Split:
    save_split("train", IMAGES, LABELS, DATASET)
    return load_split("train")


def test_what_is_stored_is_read_again(stored: Split):
    assert len(stored) == 30
    assert np.array_equal(next(stored.batches(30)).numpy(), IMAGES)
    assert np.array_equal(stored.labels.numpy(), LABELS)
    assert stored.dataset == DATASET
    assert np.array_equal(safetensors.numpy.load_file(PATH)["images"], IMAGES)


def test_images_are_taken_in_any_order_again_and_again(stored: Split):
    order = torch.tensor([7, 29, 0, 7])
    for _ in range(2):
        images, labels = stored.take(order)
        assert np.array_equal(images.numpy(), IMAGES[order])
        assert labels.tolist() == [7, 9, 0, 7]
        assert labels.dtype == torch.int64


def test_batches_come_in_order_the_last_one_smaller(stored: Split):
    for _ in range(2):
        batches = list(stored.batches(13))
        assert [len(batch) for batch in batches] == [13, 13, 4]
        assert np.array_equal(torch.cat(batches).numpy(), IMAGES)


def test_a_split_may_be_empty(in_empty_folder: Path):
    save_split("train", IMAGES[:0], LABELS[:0], DATASET)
    empty = load_split("train")
    assert len(empty) == 0
    assert list(empty.batches(10)) == []


def test_a_file_that_is_cut_off_later_is_one_line(stored: Split):
    os.truncate(PATH, PATH.stat().st_size - 1000)
    with pytest.raises(UserError, match=f"^{PATH}: cut off"):
        list(stored.batches(10))
    with pytest.raises(UserError, match=f"^{PATH}: cut off"):
        stored.take(torch.arange(30))


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory")
def test_a_large_set_is_never_whole_in_memory(in_empty_folder: Path):
    """Images at random, then all in order: 235 MB of them cost a process less than 30."""
    labels = np.zeros(300_000, np.uint8)
    save_split("train", np.zeros((300_000, 28, 28), np.uint8), labels, DATASET)
    peaks = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    ).stdout.split()
    before, after = map(int, peaks)
    assert after - before < 30_000, "KiB"


def header(images: dict) -> bytes:
    labels = {"dtype": "U8", "shape": [1], "data_offsets": [784, 785]}
    text = json.dumps({"images": images, "labels": labels}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(785)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"damaged",
        b"\xff" * 100,
        (2).to_bytes(8, "little") + b"[]",
        header({"dtype": "F32", "shape": [1, 28, 28], "data_offsets": [0, 784]}),
        header({"dtype": "U8", "shape": [1, 28, 28], "data_offsets": [0, 7840]}),
        header({"dtype": "U8", "shape": [2, 28, 28], "data_offsets": [0, 784]}),
        header({"dtype": "U8", "shape": [1, 14, 56], "data_offsets": [0, 784]}),
        header({"dtype": "U8", "shape": [1, 28, 28]}),
        header({"dtype": "U8", "shape": [1, 28, 28], "data_offsets": [0, 784]}),  # of no data set
        header({"dtype": "U8", "shape": [1, 28, 28], "data_offsets": [0, 784]})[:-1],
    ],
)
def test_a_damaged_file_is_one_line(in_empty_folder: Path, content: bytes):
    PATH.parent.mkdir(parents=True)
    PATH.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{PATH}: [^\n]*`dvc repro[^\n]*$"):
        load_split("train")
