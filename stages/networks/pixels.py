"""The input of a network."""

from typing import Any

import numpy as np


def to_input(images: Any) -> Any:
    """Turn images uint8 [N, 28, 28] into float32 [N, 1, 28, 28] in [0, 1], as `ToTensor` does.

    They are a NumPy array or a tensor, and so is the result: `predict` does not need torch.
    """
    return images[:, None] / np.float32(255)
