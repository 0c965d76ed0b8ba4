import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from stages.runtime.errors import UserError
from stages.runtime.splits import VALIDATION, Split, load_split, save_split
from tests.project import ROOT
from tests.samples import DATASET, store, write

PATH = Path("data/prepared/train.safetensors")
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 1, 28, 28), dtype=np.uint8)
LABELS = np.arange(30) % 10
MEMORY = """
import re, sys, torch
from pathlib import Path
from stages.runtime.splits import VALIDATION, load_split
def anonymous():  # KiB; the pages of a mapped file are the system's cache
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
small = load_split(Path(sys.argv[1]))  # libraries allocate memory at their first use
small.take(torch.randperm(len(small)))
small.images.sum()
before, peak = anonymous(), 0
split = load_split(Path(sys.argv[2]))
for indices in torch.randperm(len(split))[:20_000].split(1000):
    split.take(indices)
    peak = max(peak, anonymous())
for images in split.images.split(1000):
    images.sum()
    peak = max(peak, anonymous())
print(peak - before)
"""


@pytest.fixture
def stored(in_empty_folder: Path) -> Split:
    store(PATH, torch.from_numpy(IMAGES), torch.from_numpy(LABELS))
    return load_split(PATH)


def test_a_stored_split_is_loaded_unchanged(stored: Split):
    assert len(stored) == 30
    assert np.array_equal(stored.images.numpy(), IMAGES)
    assert np.array_equal(stored.labels.numpy(), LABELS)
    assert stored.dataset == DATASET
    assert np.array_equal(safetensors.numpy.load_file(PATH)["images"], IMAGES)


def test_paths_are_stored_with_their_images(stored: Split):
    assert stored.paths is None
    assert stored.name(7) == "7"
    paths = [f"data/größer/{number}.png" for number in range(30)]
    chosen = np.array([3, 29, 0])
    write(lambda outputs: save_split(outputs, PATH, IMAGES, LABELS, DATASET, chosen, paths))
    split = load_split(PATH)
    assert split.paths == [paths[3], paths[29], paths[0]]
    assert split.name(1) == paths[29]
    assert np.array_equal(split.images.numpy(), IMAGES[chosen])


def test_images_are_taken_in_any_order_again_and_again(stored: Split):
    order = torch.tensor([7, 29, 0, 7])
    for _ in range(2):
        images, labels = stored.take(order)
        assert np.array_equal(images.numpy(), IMAGES[order])
        assert labels.tolist() == [7, 9, 0, 7]
        assert labels.dtype == torch.int64


def test_only_the_validation_set_may_be_empty(in_empty_folder: Path):
    for path in (VALIDATION, PATH):
        store(path, torch.from_numpy(IMAGES[:0]), torch.from_numpy(LABELS[:0]))
    assert len(load_split(VALIDATION)) == 0
    with pytest.raises(UserError, match=r"damaged \(no images\)"):
        load_split(PATH)


def test_a_split_outlives_the_replacement_of_its_file(stored: Split):
    """DVC and the stages replace a file by another of the same name."""
    store(PATH, torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1))
    assert np.array_equal(stored.take(torch.arange(30))[0].numpy(), IMAGES)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory")
def test_a_large_set_is_never_whole_in_memory(tmp_path: Path):
    """Images at random, then all in order: 235 MB of images take less than 60 MB of memory."""
    small, large = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
    for path, count in ((small, 1000), (large, 300_000)):
        store(path, torch.zeros(count, 1, 28, 28, dtype=torch.uint8), torch.zeros(count))
    command = [sys.executable, "-c", MEMORY, small, large]
    growth = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(growth) < 60_000, "KiB"


DAMAGED = rf"^{PATH}: damaged \([^\n]+\); `make doctor FIX=1` removes it, [^\n]+$"


@pytest.mark.parametrize(
    "content", [b"", b"damaged", b"\xff" * 100, (2).to_bytes(8, "little") + b"[]"]
)
def test_another_file_is_one_line(in_empty_folder: Path, content: bytes):
    PATH.parent.mkdir(parents=True)
    PATH.write_bytes(content)
    with pytest.raises(UserError, match=DAMAGED):
        load_split(PATH)


def test_each_bit_of_a_file_counts(in_empty_folder: Path):
    """The names of classes and the shapes, too; and each cut."""
    store(PATH, torch.from_numpy(IMAGES[:1, :3, :3]), torch.from_numpy(LABELS[:1]))
    content = PATH.read_bytes()
    for place in range(len(content)):
        PATH.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match=DAMAGED):
            load_split(PATH)
    for length in range(0, len(content), 50):
        PATH.write_bytes(content[:length])
        with pytest.raises(UserError, match=DAMAGED):
            load_split(PATH)


def test_a_split_of_another_data_set_is_one_line(stored: Split):
    other = DATASET | {"name": "other"}
    with pytest.raises(UserError, match=rf"^{PATH}: holds of a test, but [^\n]*, on other; run"):
        load_split(PATH, dataset=other)


def test_a_missing_file_is_one_line(in_empty_folder: Path):
    with pytest.raises(
        UserError, match=rf"^{PATH}: no such file; make it with `dvc repro prepare`"
    ):
        load_split(PATH)
