"""The most common confusions of classes."""

from collections import Counter

import torch

COUNT = 10


def worst_confusions(
    predicted: torch.Tensor, labels: torch.Tensor, names: list[str]
) -> list[tuple[str, int]]:
    """Return the ten most common pairs of an actual and a wrongly predicted class, and their counts.

    `predicted` and `labels` are int64 [N]. Among equally frequent pairs, lower labels come first.
    """
    pairs = zip(labels.tolist(), predicted.tolist(), strict=True)
    counts = Counter(pair for pair in pairs if pair[0] != pair[1])
    worst = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COUNT]
    return [
        (f"{names[actual]} predicted as {names[wrong]}", count) for (actual, wrong), count in worst
    ]
