"""How a network's answers are scored: a few numbers for comparison, and the details behind them."""

from common.inference import accuracy, mean_loss
from common.networks import CLASSES

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

BINS = 15  # of confidence, as in Guo et al.


def headline(logits: torch.Tensor, labels: torch.Tensor) -> dict:
    """Return what two networks are compared by, from logits float32 [N, 10] and labels uint8 [N].

    `accuracy` is in [0, 1], `loss` the mean cross-entropy in nats, `calibration_error` the expected
    calibration error in [0, 1], `macro_f1` the mean of the digits' F1, `images` N.
    """
    bins = calibration(logits, labels)
    gaps = (row["images"] * abs(row["accuracy"] - row["confidence"]) for row in bins)
    return {
        "accuracy": accuracy(logits, labels),
        "loss": mean_loss(logits, labels),
        "calibration_error": sum(gaps) / max(1, len(labels)),
        "macro_f1": float(np.mean([row["f1"] for row in per_class(logits, labels)])),
        "images": len(labels),
    }


def per_class(logits: torch.Tensor, labels: torch.Tensor) -> list[dict]:
    """Return precision, recall and F1 of each digit, and the 95 % interval of its recall.

    The interval is E. B. Wilson's, "Probable Inference, the Law of Succession, and Statistical
    Inference", 1927; without any image of the digit it is [0, 1].
    """
    predicted = logits.argmax(dim=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(CLASSES), zero_division=0
    )
    rows = []
    for digit in range(CLASSES):
        images = int(support[digit])
        low, high = 0.0, 1.0
        if images:
            right = int(((labels == digit) & (predicted == digit)).sum())
            low, high = binomtest(right, images).proportion_ci(0.95, method="wilson")
        rows.append(
            {
                "class": digit,
                "precision": float(precision[digit]),
                "recall": float(recall[digit]),
                "recall_low": float(low),
                "recall_high": float(high),
                "f1": float(f1[digit]),
                "images": images,
            }
        )
    return rows


def bin_name(index: int) -> str:
    """Return "0.93 to 1.00" for the last of the bins of confidence."""
    return f"{index / BINS:.2f} to {(index + 1) / BINS:.2f}"


def calibration(logits: torch.Tensor, labels: torch.Tensor) -> list[dict]:
    """Return mean confidence and accuracy of the images in each of 15 equal bins of confidence.

    Confidence is the highest probability. Bins without images are left out. C. Guo, G. Pleiss, Y. Sun,
    K. Q. Weinberger, "On Calibration of Modern Neural Networks", 2017, equations 2 and 3.
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    right = (predicted == labels).double()
    # The first bin that ends at or above the confidence.
    bins = torch.bucketize(confidence.double(), torch.linspace(0, 1, BINS + 1).double()[1:-1])
    rows = []
    for index in range(BINS):
        here = bins == index
        if here.any():
            rows.append(
                {
                    "bin": bin_name(index),
                    "confidence": confidence[here].double().mean().item(),
                    "accuracy": right[here].mean().item(),
                    "images": int(here.sum()),
                }
            )
    return rows
