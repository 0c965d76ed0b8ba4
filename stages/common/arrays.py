"""How the prepared images are stored: data/prepared/{train,validation,test}.safetensors."""

import json
import math
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.files import whole_file

import numpy as np
import safetensors.numpy
import torch

FOLDER = Path("data/prepared")
SIDE = 28
IMAGE_BYTES = SIDE * SIDE
MAX_HEADER = 100_000_000  # bytes, safetensors' own limit


class Split:
    """Images uint8 [N, 28, 28] in a file, and labels uint8 [N].

    Only the images asked for are in memory, so that a set of any size fits. They are read, not mapped:
    for one byte of a mapped file, Linux may count megabytes around it as the process's memory.
    """

    def __init__(self, path: Path, start: int, labels: torch.Tensor, dataset: dict):
        """`start` is the first image's place in the file; `dataset` is what `save_split` was told."""
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        self._start = start
        self.labels = labels
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the images uint8 [n, 28, 28] and labels int64 [n] at `indices`, int64 [n].

        Labels become int64 because PyTorch's cross-entropy asks for it.
        """
        images = [self._read(index, 1) for index in indices.tolist()]
        return _to_images(images), self.labels.index_select(0, indices).long()

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """Yield all images in order, uint8 [n, 28, 28], `size` at a time."""
        for first in range(0, len(self), size):
            yield _to_images([self._read(first, min(size, len(self) - first))])

    def _read(self, first: int, count: int) -> bytes:
        content = os.pread(
            self._file.fileno(), count * IMAGE_BYTES, self._start + first * IMAGE_BYTES
        )
        if len(content) < count * IMAGE_BYTES:
            raise UserError(f"{self._file.name}: cut off while it was read; run `dvc repro` again")
        return content


def _to_images(parts: list[bytes]) -> torch.Tensor:
    """Return a tensor uint8 [n, 28, 28] of the images' bytes."""
    content = bytearray().join(parts)
    return torch.frombuffer(content, dtype=torch.uint8).view(-1, SIDE, SIDE)


def save_split(
    split: str, images: np.ndarray, labels: np.ndarray, dataset: dict, folder: Path = FOLDER
) -> None:
    """Store one split: `images` uint8 [N, 28, 28] (0 is paper, 255 is ink), `labels` uint8 [N].

    `dataset` says whence they are: `name`, and `sha256` of the whole set.
    """
    arrays = {"images": np.ascontiguousarray(images), "labels": np.ascontiguousarray(labels)}
    with whole_file(folder / f"{split}.safetensors") as temporary:
        safetensors.numpy.save_file(arrays, temporary, {"dataset": json.dumps(dataset)})


def load_split(split: str, folder: Path = FOLDER) -> Split:
    """Open one split.

    safetensors would read the whole file or one run of rows at a time. So its header is read here: its
    length (8 bytes, little-endian), then JSON that says where each array is.

    Raises:
        UserError: the file is missing or is not what `save_split` writes.
    """
    path = folder / f"{split}.safetensors"
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, MAX_HEADER)))
            start, end = file.tell(), file.seek(0, os.SEEK_END)
            (images_start, images_shape), (labels_start, labels_shape) = (
                _place(header[name], end - start) for name in ("images", "labels")
            )
            if len(labels_shape) != 1 or images_shape != [*labels_shape, SIDE, SIDE]:
                raise ValueError(
                    f"images {images_shape} and labels {labels_shape}, "
                    f"not [N, {SIDE}, {SIDE}] and [N]"
                )
            file.seek(start + labels_start)
            dataset = json.loads(header["__metadata__"]["dataset"])
            labels = np.fromfile(file, np.uint8, labels_shape[0])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with `dvc repro prepare`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from None
    return Split(path, start + images_start, torch.from_numpy(labels), dataset)


def _place(entry: dict, available: int) -> tuple[int, list[int]]:
    """Return where the array uint8 of a header's `entry` starts in the data, and its shape."""
    shape, (first, end) = entry["shape"], entry["data_offsets"]
    if (
        entry["dtype"] != "U8"
        or math.prod(shape) != end - first
        or not 0 <= first <= end <= available
    ):
        raise ValueError(f"{entry} in {available} bytes")
    return first, shape
