"""How a network's answers are scored: a few numbers for comparison, and the details behind them."""

import math
from statistics import NormalDist, mean

from common.inference import accuracy, mean_loss
from common.networks import CLASSES

import torch

BINS = 15  # of confidence, as in Guo et al.


def score(logits: torch.Tensor, labels: torch.Tensor) -> dict:
    """Return all scores of logits float32 [N, 10] against labels uint8 [N].

    `accuracy` is in [0, 1], `loss` the mean cross-entropy in nats, `calibration_error` the expected
    calibration error in [0, 1], `macro_f1` the mean of the digits' F1, `images` N. `per_class` and
    `calibration` are the rows behind them.
    """
    digits, bins = per_class(logits, labels), calibration(logits, labels)
    gaps = (row["images"] * abs(row["accuracy"] - row["confidence"]) for row in bins)
    return {
        "accuracy": accuracy(logits, labels),
        "loss": mean_loss(logits, labels),
        "calibration_error": sum(gaps) / max(1, len(labels)),
        "macro_f1": mean(row["f1"] for row in digits),
        "images": len(labels),
        "per_class": digits,
        "calibration": bins,
    }


def per_class(logits: torch.Tensor, labels: torch.Tensor) -> list[dict]:
    """Return precision, recall and F1 of each digit, and the 95 % interval of its recall.

    What would be divided by nothing is 0. (Written out, since scikit-learn's import takes longer than
    all the rest of the stage; the tests compare with it.)
    """
    predicted = logits.argmax(dim=1)
    rows = []
    for digit in range(CLASSES):
        actual, called = labels == digit, predicted == digit
        right, images, answers = (int(x.sum()) for x in (actual & called, actual, called))
        low, high = wilson_interval(right, images)
        rows.append(
            {
                "class": digit,
                "precision": right / max(1, answers),
                "recall": right / max(1, images),
                "recall_low": low,
                "recall_high": high,
                "f1": 2 * right / max(1, answers + images),
                "images": images,
            }
        )
    return rows


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a share; without any image it is [0, 1].

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    if images == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    centre = (right + z**2 / 2) / (images + z**2)
    half = z / (images + z**2) * math.sqrt(right * (images - right) / images + z**2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


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
