"""How the prepared images are stored: data/prepared/{train,validation,test}.safetensors."""

import hashlib
import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy

from stages.runtime.errors import UserError
from stages.runtime.inputs import Inputs, map_file
from stages.runtime.outputs import Outputs, scratch_array

if TYPE_CHECKING:
    import torch

TRAIN = Path("data/prepared/train.safetensors")
VALIDATION = Path("data/prepared/validation.safetensors")
TEST = Path("data/prepared/test.safetensors")
ZEROS = "0" * 64  # in the place of a SHA-256
AT_ONCE = 10_000  # images that are copied at once; bounds memory
DAMAGED = (AttributeError, KeyError, RecursionError, TypeError, ValueError)  # of `parse_split`


@dataclass(frozen=True)
class Split:
    """N labelled images. They stay in their file, which is mapped, until they are indexed."""

    images: "torch.Tensor"  # uint8 [N, C, H, W]: channels (1 or 3), height, width
    labels: "torch.Tensor"  # int64 [N]
    dataset: dict  # as given to `save_split`
    paths: list[str] | None  # of the pictures, below the project; None: the images had no files

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image: channels, height, width."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their labels."""
        return self.dataset["classes"]

    def name(self, index: int) -> str:
        """Return the path of an image's picture, or the image's number if it has none."""
        return self.paths[index] if self.paths else str(index)

    def take(self, indices: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the images uint8 [n, C, H, W] and labels int64 [n] at `indices`, int64 [n]."""
        return self.images[indices], self.labels[indices]


def save_split(  # noqa: PLR0913, PLR0917
    outputs: Outputs,
    path: Path,
    images: np.ndarray,
    labels: np.ndarray,
    dataset: dict,
    indices: np.ndarray | None = None,
    paths: list[str] | None = None,
) -> None:
    """Store images uint8 [N, C, H, W] and labels int64 [N], or those of them at `indices`, int64 [n].

    `dataset` describes them: the names of its `classes`, and the texts of the model card. It is in the
    file's metadata, with the `paths` of the N pictures or those at `indices`, if given, and with the
    SHA-256 of the file in which these 64 letters are zeros.
    """
    indices = np.arange(len(labels)) if indices is None else indices
    shape = (len(indices), *images.shape[1:])
    with outputs.file(path) as temporary:
        chosen = scratch_array(shape, path.parent)
        for first in range(0, len(indices), AT_ONCE):
            chosen[first : first + AT_ONCE] = images[indices[first : first + AT_ONCE]]
        # One entry of metadata: safetensors writes several in random order.
        about = {"sha256": ZEROS, "dataset": dataset}
        if paths:
            about["paths"] = [paths[index] for index in indices]
        arrays = {"images": chosen, "labels": labels[indices]}
        safetensors.numpy.save_file(arrays, temporary, {"about": json.dumps(about)})
        with temporary.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
            digest = hashlib.sha256(content).hexdigest()
            first = content.find(ZEROS.encode())
            content[first : first + len(ZEROS)] = digest.encode()


def checksum(*arrays: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, of the concatenated bytes of the arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def parse_split(content: mmap.mmap) -> tuple[np.ndarray, np.ndarray, dict, list[str] | None]:
    """Return images uint8 [N, C, H, W], labels int64 [N], data set and paths in the content of a file.

    The form is that of safetensors. The arrays are views of the content. Without paths, these are None.

    Raises:
        one of DAMAGED: `save_split` did not write it.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = content[8:start]
    entries = json.loads(header)
    about = json.loads(entries["__metadata__"]["about"])
    digest = hashlib.sha256(content[:8])
    digest.update(header.replace(about["sha256"].encode(), ZEROS.encode(), 1))
    digest.update(memoryview(content)[start:])
    if digest.hexdigest() != about["sha256"]:
        raise ValueError("the checksum in its metadata is not that of its content")

    def array(name: str, dtype: type[np.generic]) -> np.ndarray:
        shape, (first, _) = entries[name]["shape"], entries[name]["data_offsets"]
        return np.frombuffer(content, dtype, math.prod(shape), start + first).reshape(shape)

    images, labels = array("images", np.uint8), array("labels", np.int64)
    classes = len(about["dataset"]["classes"])
    if len(images) != len(labels) or not ((labels >= 0) & (labels < classes)).all():
        raise ValueError("its labels are not those of its images and classes")
    return images, labels, about["dataset"], about.get("paths")


def load_split(path: Path, inputs: Inputs | None = None, dataset: dict | None = None) -> Split:
    """Map one split, which may be one of a stage's `inputs`, and should be of this `dataset`.

    Raises:
        UserError: the file is missing, is not what `save_split` wrote, or of another data set.
    """
    import torch  # here, since the demo reads the files without it

    try:
        images, labels, about, paths = parse_split(inputs.map(path) if inputs else map_file(path))
        split = Split(torch.from_numpy(images), torch.from_numpy(labels), about, paths)
        if path != VALIDATION and not len(split):
            raise ValueError("no images")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with `dvc repro prepare`") from None
    except DAMAGED as error:
        raise UserError(
            f"{path}: damaged ({error}); `make doctor FIX=1` removes it, here and in DVC's cache; then "
            "run `dvc repro`"
        ) from None
    if dataset is not None and dataset != split.dataset:
        raise UserError(
            f"{path}: holds {split.dataset['name']}, but the stage's other inputs come from another "
            f"run of `prepare`, on {dataset['name']}; run `dvc repro`"
        )
    return split
