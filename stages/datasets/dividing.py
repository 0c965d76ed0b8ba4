"""How a set is divided into training, validation and test set."""

import math

import numpy as np

from stages.common.errors import UserError
from stages.common.params import PARAMS, PrepareParams
from stages.datasets.dataset import Dataset

TEST_SHARE = 0.2  # of a folder without test/


def divide(dataset: Dataset, params: PrepareParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sorted indices, int64, of the training, the validation and the test set.

    Raises:
        UserError: the set is too small for what the parameters ask for.
    """
    every = np.arange(len(dataset.labels))
    if dataset.test is None:
        share = TEST_SHARE if params.test_share is None else params.test_share
        left = 1 if params.validation_size == 0 else 2  # for training, and for validation
        rest, test = draw(dataset, every, ("test_share", share), params.seed, left)
    else:
        rest, test = every[~dataset.test], every[dataset.test]
    size = params.validation_size
    train, validation = draw(dataset, rest, ("validation_size", size), params.seed)
    return train, validation, test


def draw(
    dataset: Dataset, indices: np.ndarray, parameter: tuple[str, float], seed: int, left: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the images at `indices`, int64 [n]; return the sorted indices of the rest and the drawn.

    `parameter` names a key below `prepare` and its value: a share, or a number of images. The draw
    depends on `seed` alone. Of each class the same share is drawn, but at least one image, and at least
    `left` stay. Equal images are on one side: the first of them, with its label, stands for all.

    Raises:
        UserError: there are not enough images for that.
    """
    name, amount = parameter
    if amount == 0:
        return indices, indices[:0]
    first, classes = dataset.first[indices], dataset.about["classes"]
    ones = np.unique(first)
    labels = dataset.labels[ones]
    each = np.bincount(labels, minlength=len(classes))
    if each.min() < 1 + left:
        raise UserError(
            f"data/{dataset.about['name']}: the class {classes[each.argmin()]} has {each.min()} "
            f"different pictures for prepare.{name}, which needs {1 + left}; add some"
        )
    share = amount if amount < 1 else amount / len(indices)
    counts = allot(each, share, left)
    least, most = len(classes) / len(ones), (each - left).sum() / len(ones)
    if not least <= share <= most:
        low, high = math.ceil(1000 * least) / 1000, math.floor(1000 * most) / 1000
        none = "0, " if name == "validation_size" else ""
        raise UserError(
            f"{PARAMS}: prepare.{name}: {amount} of {len(indices):,} pictures of {len(classes):,} "
            f"classes: use {none}a share of {low} to {high}, or {math.ceil(low * len(indices)):,} to "
            f"{math.floor(high * len(indices)):,} pictures"
        )
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(ones[labels == label])[:count] for label, count in enumerate(counts)
    ]
    chosen = np.isin(first, np.concatenate(drawn))
    return indices[~chosen], indices[chosen]


def allot(each: np.ndarray, share: float, left: int) -> np.ndarray:
    """Return how many of so many images of each class are drawn, both int64 [classes].

    Together they are `share` of all, if that can be: of each class at least one is drawn, and at least
    `left` stay.
    """
    ideal = each * share
    counts = np.clip(np.floor(ideal).astype(np.int64), 1, each - left)
    missing = round(each.sum() * share) - counts.sum()
    step = 1 if missing > 0 else -1
    for _ in range(abs(missing)):
        possible = counts < each - left if step > 0 else counts > 1
        if not possible.any():
            break
        lack = np.where(possible, step * (ideal - counts), -np.inf)
        counts[lack.argmax()] += step
    return counts
