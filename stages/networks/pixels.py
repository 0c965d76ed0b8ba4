"""The input of a network."""

from typing import Any

import numpy as np


def to_input(images: Any) -> Any:
    """Turn images uint8 [N, C, H, W] into float32 in [0, 1], as `ToTensor` does.

    They are a NumPy array or a tensor, and so is the result: `predict` does not need torch.
    """
    return images / np.float32(255)
