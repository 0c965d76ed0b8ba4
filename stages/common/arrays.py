"""How the prepared images are stored: data/prepared/{train,validation,test}.safetensors."""

import json
import mmap
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.files import write_bytes

import numpy as np
import safetensors.numpy
import torch

FOLDER = Path("data/prepared")


class Split:
    """Images uint8 [N, 28, 28] and labels uint8 [N], of which only what is asked for is in memory.

    `mapping` is the file that the images are mapped from, if they are.
    """

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, mapping: mmap.mmap | None = None
    ):
        self.images = images
        self.labels = labels
        self._mapping = mapping

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy out the images uint8 [n, 28, 28] and labels int64 [n] at `indices`, int64 [n].

        Labels become int64 because PyTorch's cross-entropy asks for it.
        """
        images = self.images.index_select(0, indices)
        self._release()
        return images, self.labels.index_select(0, indices).long()

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """Yield all images in order, uint8 [n, 28, 28], `size` at a time; use one before the next."""
        for batch in self.images.split(size) if len(self) else ():
            yield batch
            self._release()

    def _release(self) -> None:
        """Give back the memory of the pages read so far, so that a set of any size fits.

        They stay in the system's cache, from which the next reader gets them without a disk.
        """
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)


def save_split(split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Store one split: `images` uint8 [N, 28, 28] (0 is paper, 255 is ink), `labels` uint8 [N]."""
    arrays = {"images": np.ascontiguousarray(images), "labels": np.ascontiguousarray(labels)}
    write_bytes(FOLDER / f"{split}.safetensors", safetensors.numpy.save(arrays))


def load_split(split: str) -> Split:
    """Open one split.

    safetensors would read the whole file or one run of rows at a time, so the file is mapped here: the
    length of the header (8 bytes, little-endian), the header (JSON), then the arrays.

    Raises:
        UserError: the file is missing or is not what `save_split` writes.
    """
    path = FOLDER / f"{split}.safetensors"
    try:
        with path.open("rb") as file:
            # A private copy: torch refuses memory that it must not write to.
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        start = 8 + int.from_bytes(mapping[:8], "little")
        header = json.loads(mapping[8:start])
        images = _array(mapping, start, header["images"], dimensions=3)
        labels = _array(mapping, start, header["labels"], dimensions=1).clone()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with `dvc repro prepare`") from None
    except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from None
    if images.shape != (len(labels), 28, 28):
        raise UserError(
            f"{path}: holds images {list(images.shape)} and {len(labels)} labels, not [N, 28, 28] "
            "and N; delete it and run `dvc repro`"
        )
    return Split(images, labels, mapping)


def _array(mapping: mmap.mmap, start: int, entry: dict, dimensions: int) -> torch.Tensor:
    """Return the array uint8 that the header's `entry` describes, as a view of the mapped file."""
    shape, (first, end) = entry["shape"], entry["data_offsets"]
    if entry["dtype"] != "U8" or len(shape) != dimensions or start + end > len(mapping):
        raise ValueError(f"{entry} in a file of {len(mapping)} bytes")
    if end == first:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(
        mapping, dtype=torch.uint8, offset=start + first, count=end - first
    ).view(shape)
