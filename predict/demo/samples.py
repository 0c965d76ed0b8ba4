"""A few test images of the model's data set, for the page."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

TEST = Path("data/prepared/test.safetensors")  # stages/runtime/splits.py would import PyTorch
MAX_SAMPLES = 10


def load_samples(path: Path, dataset: dict) -> list[tuple[int, np.ndarray]]:
    """Return the labels and images uint8 [28, 28] of the first test image of each of ten classes.

    None, if the file is missing, damaged, or not of this `dataset`: the demo works without them.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            if json.loads(file.metadata()["about"])["dataset"] != dataset:
                return []
            labels, first = np.unique(file.get_tensor("labels"), return_index=True)
            images = file.get_slice("images")
            chosen = zip(labels.tolist(), first.tolist(), strict=True)
            return [(label, images[at : at + 1][0]) for label, at in chosen][:MAX_SAMPLES]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return []
