"""Bring the images and labels into three files: training, validation and test set."""

if __name__ == "__main__":
    from stages.common.frame import run

    run("stages.prepare")

import numpy as np
from sklearn.model_selection import train_test_split

from stages.common.params import load_params
from stages.common.splits import TEST, TRAIN, VALIDATION, checksum, save_split
from stages.common.stage import Stage
from stages.datasets import digits, mnist

# Of a set as small as the embedded digits at most this share is held back for validation.
MAX_VALIDATION_SHARE = {"mnist": 1.0, "digits": 1 / 6}


def split_validation(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide the images with these labels, uint8 [N], into N - size and `size`.

    Returns the sorted indices, int64, of the two parts. The draw depends on `seed` alone, and each
    class has the same share of both parts. `size` is 0 or at least the number of classes.
    """
    indices = np.arange(len(labels))
    if size == 0:
        return indices, indices[:0]
    train, validation = train_test_split(
        indices, test_size=size, random_state=seed, stratify=labels
    )
    return np.sort(train), np.sort(validation)


def main(stage: Stage) -> None:
    params = load_params().prepare
    (images, labels), test = mnist.load() if params.dataset == "mnist" else digits.load(params.seed)

    size = min(params.validation_size, int(len(labels) * MAX_VALIDATION_SHARE[params.dataset]))
    if size < params.validation_size:
        print(f"prepare.validation_size: cut from {params.validation_size} to {size}")
    train, validation = split_validation(labels, size, params.seed)
    dataset = {"name": params.dataset, "sha256": checksum(images, labels, *test)}

    save_split(stage.outputs, TRAIN, images[train], labels[train], dataset)
    save_split(stage.outputs, VALIDATION, images[validation], labels[validation], dataset)
    save_split(stage.outputs, TEST, *test, dataset)
    print(
        f"{params.dataset}: {len(train):,} training, {len(validation):,} validation, "
        f"{len(test[1]):,} test images"
    )
