"""How the prepared images are stored: data/prepared/{train,validation,test}.safetensors."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open

from stages.runtime.errors import UserError
from stages.runtime.outputs import Outputs, scratch_array

TRAIN = Path("data/prepared/train.safetensors")
VALIDATION = Path("data/prepared/validation.safetensors")
TEST = Path("data/prepared/test.safetensors")
AT_ONCE = 10_000  # images that are copied at once; bounds memory


@dataclass(frozen=True)
class Split:
    """N labelled images. They stay in their file, which is mapped, until they are indexed."""

    images: torch.Tensor  # uint8 [N, 28, 28], 0 is background
    labels: torch.Tensor  # int64 [N]
    dataset: dict  # as given to `save_split`

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their labels."""
        return self.dataset["classes"]

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images uint8 [n, 28, 28] and labels int64 [n] at `indices`, int64 [n]."""
        return self.images[indices], self.labels[indices]


def save_split(  # noqa: PLR0913, PLR0917
    outputs: Outputs,
    path: Path,
    images: np.ndarray,
    labels: np.ndarray,
    dataset: dict,
    indices: np.ndarray | None = None,
) -> None:
    """Store images uint8 [N, 28, 28] and labels int64 [N], or those of them at `indices`, int64 [n].

    `dataset` describes them: the names of its `classes`, and the texts of the model card. It is in the
    file's metadata, with a checksum of these arrays.
    """
    indices = np.arange(len(labels)) if indices is None else indices
    shape = (len(indices), *images.shape[1:])
    with outputs.file(path) as temporary:
        chosen = scratch_array(shape, path.parent)
        for first in range(0, len(indices), AT_ONCE):
            chosen[first : first + AT_ONCE] = images[indices[first : first + AT_ONCE]]
        arrays = {"images": chosen, "labels": labels[indices]}
        about = {"dataset": dataset, "sha256": checksum(*arrays.values())}
        # One entry of metadata: safetensors writes several in random order.
        safetensors.numpy.save_file(arrays, temporary, {"about": json.dumps(about)})


def checksum(*arrays: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, of the concatenated bytes of the arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def load_split(path: Path) -> Split:
    """Open one split.

    Raises:
        UserError: the file is missing or is not what `save_split` wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
            about = json.loads(file.metadata()["about"])
        if images.dim() != 3 or labels.shape != images.shape[:1]:
            raise ValueError(f"images {list(images.shape)}, labels {list(labels.shape)}")
        if images.dtype != torch.uint8 or labels.dtype != torch.int64:
            raise ValueError(f"images {images.dtype}, labels {labels.dtype}")
        if about["sha256"] != checksum(images.numpy(), labels.numpy()):
            raise ValueError("the checksum in its metadata is not that of its content")
        split = Split(images, labels, about["dataset"])
        if path != VALIDATION and not len(labels):
            raise ValueError("no images")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(split.classes):
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with `dvc repro prepare`") from None
    except (SafetensorError, ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged ({error}); `make doctor FIX=1` removes it, here and in DVC's cache; then "
            "run `dvc repro`"
        ) from None
    return split
