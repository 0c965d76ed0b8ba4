"""How a network's answers are scored: a few numbers for comparison, and the details behind them."""

import numpy as np
import torch
from scipy.stats import binned_statistic, binomtest
from sklearn.metrics import precision_recall_fscore_support

from stages.network.inference import accuracy, mean_loss

BINS = 15  # of confidence, as in Guo et al.


def score(logits: torch.Tensor, labels: torch.Tensor, names: list[str]) -> dict:
    """Return all scores of logits float32 [N, classes] against labels int64 [N].

    `accuracy` is in [0, 1], `loss` the mean cross-entropy in nats, `calibration_error` the expected
    calibration error in [0, 1], `macro_f1` the mean of the classes' F1, `images` N. `per_class` and
    `calibration` are the rows behind them.
    """
    classes, bins = per_class(logits, labels, names), calibration(logits, labels)
    gaps = [
        (row["right"] + row["wrong"]) * abs(row["accuracy"] - row["confidence"])
        for row in bins
        if row["accuracy"] is not None
    ]
    return {
        "accuracy": accuracy(logits, labels),
        "loss": mean_loss(logits, labels),
        "calibration_error": sum(gaps) / len(labels),
        "macro_f1": sum(row["f1"] for row in classes) / len(classes),
        "images": len(labels),
        "per_class": classes,
        "calibration": bins,
    }


def per_class(logits: torch.Tensor, labels: torch.Tensor, names: list[str]) -> list[dict]:
    """Return precision, recall and F1 of each class, and Wilson's 95 % interval of its recall.

    What would be divided by nothing is 0; the interval of a class without images is [0, 1].
    """
    predicted = logits.argmax(dim=1).numpy()
    scores = precision_recall_fscore_support(
        labels.numpy(), predicted, labels=range(len(names)), zero_division=0
    )
    right = np.bincount(labels.numpy()[predicted == labels.numpy()], minlength=len(names))
    rows = []
    for label, (precision, recall, f1, images) in enumerate(zip(*scores, strict=True)):
        low, high = 0.0, 1.0
        if images:
            interval = binomtest(int(right[label]), int(images)).proportion_ci(method="wilson")
            low, high = interval
        rows.append(
            {
                "class": names[label],
                "precision": float(precision),
                "recall": float(recall),
                "recall_low": float(low),
                "recall_high": float(high),
                "f1": float(f1),
                "images": int(images),
            }
        )
    return rows


def calibration(logits: torch.Tensor, labels: torch.Tensor) -> list[dict]:
    """Return mean confidence, accuracy, and right and wrong answers in 15 equal bins of confidence.

    Confidence is the highest probability. The means of a bin without images are None. C. Guo,
    G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks", 2017,
    equations 2 and 3.
    """
    confidence, predicted = logits.softmax(dim=1).double().max(dim=1)
    right = (predicted == labels).double()
    values = np.stack([confidence.numpy(), right.numpy(), 1 - right.numpy()])
    sums, edges, _ = binned_statistic(values[0], values, "sum", bins=BINS, range=(0, 1))
    rows = []
    for low, high, (sum_confidence, sum_right, sum_wrong) in zip(
        edges[:-1], edges[1:], sums.T, strict=True
    ):
        images = sum_right + sum_wrong
        rows.append(
            {
                "bin": f"{low:.2f} to {high:.2f}",
                "confidence": float(sum_confidence / images) if images else None,
                "accuracy": float(sum_right / images) if images else None,
                "right": int(sum_right),
                "wrong": int(sum_wrong),
            }
        )
    return rows
