"""A few test images of the model's data set, for the page."""

from pathlib import Path

import numpy as np

from stages.runtime.inputs import map_file
from stages.runtime.splits import DAMAGED, parse_split

MAX_SAMPLES = 10


def load_samples(path: Path, dataset: dict) -> list[tuple[int, np.ndarray]]:
    """Return the labels and images uint8 [C, H, W] of the first test image of each of ten classes.

    None, if the file is missing, damaged, or not of this `dataset`: the demo works without them.
    """
    try:
        images, labels, stored, _ = parse_split(map_file(path))
    except (OSError, *DAMAGED):
        return []
    if stored != dataset:
        return []
    chosen = zip(*np.unique(labels, return_index=True), strict=True)
    return [(int(label), images[first]) for label, first in chosen][:MAX_SAMPLES]
