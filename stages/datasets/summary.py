"""Describes a data set: numbers for `dvc metrics diff`, and a sheet of samples."""

from pathlib import Path

import numpy as np
from PIL import Image

from stages.datasets.dataset import Dataset
from stages.drawing.sheet import draw_sheet, to_picture

MAX_ROWS = 30  # classes on the sheet
COLUMNS = 10
SIDE = 36  # pixels of an image on the sheet: one that a phone shows in its natural size
BATCH = 10_000  # images; bounds memory


def summarise(
    dataset: Dataset, splits: dict[Path, np.ndarray], near_duplicates: int | None
) -> dict:
    """Return the numbers of each split by its name; `splits` has the indices, int64 [n].

    None `near_duplicates` are left out: nobody looked for them.
    """
    summary = {
        "classes": len(dataset.about["classes"]),
        "equal_images": len(dataset.repeated),
        "unreadable_images": dataset.unreadable,
    }
    if near_duplicates is not None:
        summary["near_duplicates"] = near_duplicates
    return summary | {path.stem: _numbers(dataset, indices) for path, indices in splits.items()}


def _numbers(dataset: Dataset, indices: np.ndarray) -> dict:
    each = np.bincount(dataset.labels[indices], minlength=len(dataset.about["classes"]))
    counts = np.zeros(256, np.int64)  # of grey levels: sums of whole numbers are exact
    for batch in np.array_split(indices, -(-len(indices) // BATCH) or 1):
        rows = dataset.images[batch].reshape(-1, dataset.images.shape[-1])
        counts += Image.fromarray(rows).histogram()
    levels, pixels = np.arange(256), max(1, int(counts.sum()))
    mean = int(counts @ levels) / pixels
    variance = int(counts @ levels**2) / pixels - mean**2
    return {
        "images": len(indices),
        "smallest_class": int(each.min()),
        "largest_class": int(each.max()),
        "pixel_mean": mean,
        "pixel_deviation": max(0.0, variance) ** 0.5,
    }


def draw_samples(dataset: Dataset, indices: np.ndarray, seed: int) -> bytes:
    """Return an SVG file with a row for each class: ten of its images at `indices`, drawn by `seed`.

    Of more than 30 classes it shows the first 30.
    """
    rng = np.random.default_rng(seed)
    pictures: list[Image.Image | None] = []
    captions: list[tuple[str]] = []
    layout = dataset.about["layout"]
    for label, name in enumerate(dataset.about["classes"][:MAX_ROWS]):
        of_class = rng.permutation(indices[dataset.labels[indices] == label])[:COLUMNS]
        pictures += [to_picture(dataset.images[index], layout) for index in of_class]
        pictures += [None] * (COLUMNS - len(of_class))
        captions += [(name,)] + [("",)] * (COLUMNS - 1)
    return draw_sheet(pictures, captions, COLUMNS, SIDE, span=COLUMNS)
