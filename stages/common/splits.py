"""How the prepared images are stored: data/prepared/{train,validation,test}.safetensors."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open

from stages.common.errors import UserError
from stages.common.files import Outputs

TRAIN = Path("data/prepared/train.safetensors")
VALIDATION = Path("data/prepared/validation.safetensors")
TEST = Path("data/prepared/test.safetensors")
SIDE = 28


@dataclass(frozen=True)
class Split:
    """N labelled images. They stay in their file, which is mapped, until they are indexed."""

    images: torch.Tensor  # uint8 [N, 28, 28], 0 is paper, 255 is ink
    labels: torch.Tensor  # uint8 [N]
    dataset: dict  # what `save_split` was told

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images uint8 [n, 28, 28] and labels int64 [n] at `indices`, int64 [n].

        Labels become int64 because PyTorch's cross-entropy asks for it.
        """
        return self.images[indices], self.labels[indices].long()


def save_split(
    outputs: Outputs, path: Path, images: np.ndarray, labels: np.ndarray, dataset: dict
) -> None:
    """Store one split: `images` uint8 [N, 28, 28] (0 is paper, 255 is ink), `labels` uint8 [N].

    `dataset` says whence they are: `name`, and `sha256` of the whole set. The file's metadata hold it,
    and a checksum of these arrays.
    """
    arrays = {"images": np.ascontiguousarray(images), "labels": np.ascontiguousarray(labels)}
    about = {"dataset": dataset, "sha256": checksum(*arrays.values())}
    with outputs.file(path) as temporary:
        # One entry of metadata: safetensors writes several in random order.
        safetensors.numpy.save_file(arrays, temporary, {"about": json.dumps(about)})


def checksum(*arrays: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, of the arrays' bytes one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
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
        dataset = about["dataset"]
        if images.shape != (len(labels), SIDE, SIDE) or labels.dim() != 1:
            raise ValueError(f"images {list(images.shape)}, labels {list(labels.shape)}")
        if images.dtype != torch.uint8 or labels.dtype != torch.uint8:
            raise ValueError(f"images {images.dtype}, labels {labels.dtype}, not torch.uint8")
        if about["sha256"] != checksum(images.numpy(), labels.numpy()):
            raise ValueError("the checksum in its metadata is not that of its content")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with `dvc repro prepare`") from None
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from None
    return Split(images, labels, dataset)
