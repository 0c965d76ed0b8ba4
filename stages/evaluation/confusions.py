"""Which classes are taken for each other."""

from collections import Counter

import torch

COUNT = 10


def worst_confusions(
    predicted: torch.Tensor, labels: torch.Tensor, names: list[str]
) -> list[tuple[str, int]]:
    """Return the ten pairs of classes most often taken for each other, and how often.

    `predicted` and `labels` are int64 [N]. Of pairs that are equally frequent, the lower come first.
    """
    pairs = zip(labels.tolist(), predicted.tolist(), strict=True)
    counts = Counter(pair for pair in pairs if pair[0] != pair[1])
    worst = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COUNT]
    return [
        (f"{names[actual]} taken for {names[other]}", count) for (actual, other), count in worst
    ]
