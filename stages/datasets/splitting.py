"""Splits a data set into training, validation and test set."""

import math

import numpy as np

from stages.datasets.dataset import Dataset
from stages.datasets.params import PrepareParams
from stages.runtime.config import PARAMS
from stages.runtime.errors import UserError, refuse

TEST_SHARE = 0.2  # of a folder without test/


def split(dataset: Dataset, params: PrepareParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sorted indices, int64, of the training, the validation and the test set.

    Raises:
        UserError: the set is too small for the parameters.
    """
    indices = np.arange(len(dataset.labels))
    if dataset.test is None:
        share = TEST_SHARE if params.test_share is None else params.test_share
        left = 1 if params.validation_size == 0 else 2  # for training, and for validation
        rest, test = hold_out(dataset, indices, ("test_share", share), params.seed, left)
    else:
        rest, test = indices[~dataset.test], indices[dataset.test]
    size = params.validation_size
    train, validation = hold_out(dataset, rest, ("validation_size", size), params.seed)
    return train, validation, test


def hold_out(
    dataset: Dataset, indices: np.ndarray, parameter: tuple[str, float], seed: int, left: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out some images at `indices`, int64 [n]; return the sorted indices of rest and held out.

    `parameter` names a key below `prepare` and its value: a share, or a number of images. The choice
    depends on `seed` alone. The same share of each class is held out, but at least one image, and at
    least `left` stay. Equal images stay together: the first of them, with its label, represents all.

    Raises:
        UserError: there are too few images.
    """
    name, amount = parameter
    if amount == 0:
        return indices, indices[:0]
    first, classes = dataset.first[indices], dataset.about["classes"]
    different = np.unique(first)
    labels = dataset.labels[different]
    each = np.bincount(labels, minlength=len(classes))
    refuse(
        f"data/{dataset.about['name']}: the class {classes[label]} has {each[label]} different "
        f"pictures for prepare.{name}, which needs {1 + left}; add some"
        for label in np.flatnonzero(each < 1 + left)
    )
    share = amount if amount < 1 else amount / len(indices)
    lowest, highest = len(classes) / len(different), (each - left).sum() / len(different)
    if not lowest <= share <= highest:
        low, high = math.ceil(1000 * lowest) / 1000, math.floor(1000 * highest) / 1000
        none = "0, " if name == "validation_size" else ""
        raise UserError(
            f"{PARAMS}: prepare.{name}: {amount} of {len(indices):,} pictures of {len(classes):,} "
            f"classes: use {none}a share of {low} to {high}, or {math.ceil(low * len(indices)):,} to "
            f"{math.floor(high * len(indices)):,} pictures"
        )
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(different[labels == label])[:count]
        for label, count in enumerate(allocate(each, share, left))
    ]
    held_out = np.isin(first, np.concatenate(chosen))
    return indices[~held_out], indices[held_out]


def allocate(each: np.ndarray, share: float, left: int) -> np.ndarray:
    """Return how many of the images of each class are held out, both int64 [classes].

    Together they are `share` of all if possible: at least one of each class, and at least `left` stay.
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
