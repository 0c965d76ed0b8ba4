"""Finds test pictures that nearly equal another: recompressed, resized, slightly brighter or darker.

Equal images never come this far: `dataset.py` refuses them or `splitting.py` keeps them together.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from tqdm import tqdm

from stages.datasets.dataset import Dataset, warn
from stages.runtime.processes import usable_cores

SIDE = 8  # pixels: images are averaged to 8 x 8 to find the candidates
# The mean difference of near-duplicates, at most: in grey levels, and as a share of the mean difference
# of the picture's own pixels from their mean, since all images with little ink differ little.
LEVELS, SHARE = 4, 0.25
BLOCK = 1_000  # images; bounds memory


def warn_of_near_duplicates(dataset: Dataset, test: np.ndarray, others: np.ndarray) -> int | None:
    """Return how many images at `test` nearly equal one at `others`, both int64 [n]; warn of five.

    Returns None for images without files, those of published sets.
    """
    if (paths := dataset.paths) is None:
        return None
    pairs = near_duplicates(dataset.images, test, others)
    warn(
        [
            f"{paths[index]} and {paths[other]}: nearly the same picture, in the test set and "
            "outside of it, so the test accuracy may be too high; remove one"
            for index, other in pairs
        ],
        "test pictures are nearly the same as another picture",
    )
    return len(pairs)


def near_duplicates(
    images: np.ndarray, test: np.ndarray, others: np.ndarray
) -> list[tuple[int, int]]:
    """Return pairs of an index in `test` and one in `others` whose images nearly equal each other.

    `images` are uint8 [N, C, S, S], C is 1 or 3, S at least 8; the indices are int64 [n]. Each test
    image is compared with one other image only, the nearest after averaging, so that many flat images
    take no longer.
    """
    pairs = []
    nearest = _nearest(_average(images, test), _average(images, others))
    for index, other in zip(test.tolist(), others[nearest].tolist(), strict=True):
        image = images[index].astype(np.int16)
        difference = np.abs(image - images[other]).mean()
        if difference <= min(LEVELS, SHARE * np.abs(image - image.mean()).mean()):
            pairs.append((index, other))
    return pairs


def _average(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the images at `indices`, averaged to int8 [n, C * 8 * 8]; 0 is the middle grey."""
    averages = np.empty((len(indices), images.shape[1] * SIDE * SIDE), np.int8)
    side = images.shape[2]
    block = np.arange(side) * SIDE // side  # of each pixel, along one side
    belongs = np.equal.outer(block, np.arange(SIDE)).astype(np.float32)
    pixels = np.outer(belongs.sum(axis=0), belongs.sum(axis=0))
    for first in range(0, len(indices), BLOCK):
        chosen = images[indices[first : first + BLOCK]].astype(np.float32)
        sums = belongs.T @ (chosen @ belongs)  # whole numbers below 2^24, so exact
        averages[first : first + BLOCK].reshape(sums.shape)[:] = sums // pixels - 128
    return averages


def _nearest(test: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the index of the row of `others` that is nearest to each row of `test`, int64 [n].

    Of equally near ones, it is the first. Both are int8 [rows, numbers].
    """
    blocks = [test[first : first + BLOCK] for first in range(0, len(test), BLOCK)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = pool.map(partial(_nearest_of_block, others=others), blocks)
        bar = tqdm(found, "near-duplicates", len(blocks), disable=None)
        return np.concatenate([np.empty(0, np.int64), *bar])


def _nearest_of_block(test: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return what `_nearest` does, for a few rows of `test`."""
    nearest = np.zeros(len(test), np.int64)
    smallest = np.full(len(test), np.inf, np.float32)
    left = test * np.float32(-2)
    for first in range(0, len(others), BLOCK):
        right = others[first : first + BLOCK].astype(np.float32)
        # The square of the distance, |b|² - 2 a·b, without |a|², which is the same for the row. All
        # sums are whole numbers below 2^24: exact in float32, and so the same on every machine.
        distances = left @ right.T
        distances += np.square(right).sum(axis=1)
        best = distances.argmin(axis=1)
        found = np.take_along_axis(distances, best[:, None], axis=1)[:, 0]
        closer = found < smallest
        nearest[closer] = first + best[closer]
        smallest[closer] = found[closer]
    return nearest
