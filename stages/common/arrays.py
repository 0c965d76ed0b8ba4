"""How the prepared images are stored: data/prepared/{train,validation,test}.safetensors."""

from pathlib import Path

from common.errors import UserError
from common.files import write_bytes

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError

FOLDER = Path("data/prepared")


def save_split(split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Store one split: `images` uint8 [N, 28, 28] (0 is paper, 255 is ink), `labels` uint8 [N]."""
    arrays = {"images": np.ascontiguousarray(images), "labels": np.ascontiguousarray(labels)}
    write_bytes(FOLDER / f"{split}.safetensors", safetensors.numpy.save(arrays))


def load_split(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Load one split: images uint8 [N, 28, 28] and labels int64 [N].

    Labels are stored in one byte and used as int64, which PyTorch's cross-entropy asks for.

    Raises:
        UserError: the file is missing or is not what `save_split` writes.
    """
    path = FOLDER / f"{split}.safetensors"
    try:
        arrays = safetensors.torch.load_file(path)
        images, labels = arrays["images"], arrays["labels"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with `dvc repro prepare`") from None
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from None
    if images.dtype != torch.uint8 or images.shape != (len(labels), 28, 28):
        raise UserError(
            f"{path}: holds images {images.dtype} {list(images.shape)} and {len(labels)} labels, "
            "not uint8 [N, 28, 28] and N; delete it and run `dvc repro`"
        )
    return images, labels.long()
