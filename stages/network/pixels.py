"""What a network takes in."""

from typing import TypeVar

import numpy as np

Images = TypeVar("Images")  # a NumPy array or a tensor: `predict` must not need torch


def to_input(images: Images) -> Images:
    """Turn images uint8 [N, 28, 28] into float32 [N, 1, 28, 28] in [0, 1], as `ToTensor` does."""
    return images[:, None] / np.float32(255)
