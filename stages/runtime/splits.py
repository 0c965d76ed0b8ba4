"""The prepared images as tensors."""

from dataclasses import dataclass
from pathlib import Path

import torch

from stages.runtime.errors import UserError
from stages.runtime.inputs import Inputs, map_file
from stages.runtime.split_file import DAMAGED, VALIDATION, parse_split


@dataclass(frozen=True)
class Split:
    """N labelled images. They stay in their file, which is mapped, until they are indexed."""

    images: torch.Tensor  # uint8 [N, C, H, W]: channels (1 or 3), height, width
    labels: torch.Tensor  # int64 [N]
    dataset: dict  # as given to `save_split`

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

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images uint8 [n, C, H, W] and labels int64 [n] at `indices`, int64 [n]."""
        return self.images[indices], self.labels[indices]


def load_split(path: Path, inputs: Inputs | None = None, dataset: dict | None = None) -> Split:
    """Map one split, which may be one of a stage's `inputs`, and should be of this `dataset`.

    Raises:
        UserError: the file is missing, is not what `save_split` wrote, or of another data set.
    """
    try:
        images, labels, about = parse_split(inputs.map(path) if inputs else map_file(path))
        split = Split(torch.from_numpy(images), torch.from_numpy(labels), about)
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
