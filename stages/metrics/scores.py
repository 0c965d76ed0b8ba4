"""How a network's logits are scored: a few numbers for comparison, and the tables behind them.

To add a metric: a name in `metrics` of `score`.
"""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from stages.networks.inference import accuracy, correct, mean_loss

BINS = 15  # of confidence, as in Guo et al.

Table = list[dict[str, Any]]  # of each row: its values by column


class Scores(NamedTuple):
    metrics: dict[str, float]
    per_class: Table
    calibration: Table


def score(logits: Tensor, labels: Tensor, names: list[str]) -> Scores:
    """Return all scores of logits float32 [N, classes] for labels int64 [N].

    Of the metrics, `accuracy` is in [0, 1], `loss` the mean cross-entropy in nats, `calibration_error`
    the expected calibration error in [0, 1], `macro_f1` the mean of the classes' F1, `images` N.
    """
    classes, bins = per_class(logits, labels, names), calibration(logits, labels)
    metrics = {
        "accuracy": accuracy(logits, labels),
        "loss": mean_loss(logits, labels),
        "calibration_error": calibration_error(bins),
        "macro_f1": sum(row["f1"] for row in classes) / len(classes),
        "images": len(labels),
    }
    return Scores(metrics, classes, bins)


def per_class(logits: Tensor, labels: Tensor, names: list[str]) -> Table:
    """Return precision, recall and F1 of each class, and Wilson's 95 % interval of its recall.

    A quotient by zero is 0; the interval of a class without images is [0, 1].
    """
    actual, predicted = labels.numpy(), logits.argmax(dim=1).numpy()
    hits, images, predictions = (
        np.bincount(values, minlength=len(names))
        for values in (actual[predicted == actual], actual, predicted)
    )
    low, high = wilson_interval(hits, images)
    columns = {
        "precision": ratio(hits, predictions),
        "recall": ratio(hits, images),
        "recall_low": low,
        "recall_high": high,
        "f1": ratio(2 * hits, images + predictions),
        "images": images,
    }
    return [
        {"class": name, **{column: values[label].item() for column, values in columns.items()}}
        for label, name in enumerate(names)
    ]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, and 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def wilson_interval(hits: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % confidence intervals of the shares hits / images.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    z = NormalDist().inv_cdf(0.975)
    centre = hits + z**2 / 2
    half = z * np.sqrt(ratio(hits * (images - hits), images) + z**2 / 4)
    return (
        np.maximum(0, (centre - half) / (images + z**2)),
        np.minimum(1, (centre + half) / (images + z**2)),
    )


def calibration(logits: Tensor, labels: Tensor) -> Table:
    """Return mean confidence, accuracy and the numbers of images in 15 equal bins of confidence.

    Confidence is the highest probability. The means of a bin without images are None. C. Guo,
    G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks", 2017,
    equation 2.
    """
    confidence = logits.softmax(dim=1).double().max(dim=1).values.numpy()
    hits = correct(logits, labels).numpy()
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.digitize(confidence, edges[1:-1])
    images, correct_images, confidences = (
        np.bincount(bins, weights, BINS) for weights in (None, hits, confidence)
    )
    return [
        {
            "bin": f"{edges[i]:.2f} to {edges[i + 1]:.2f}",
            "confidence": float(confidences[i] / images[i]) if images[i] else None,
            "accuracy": float(correct_images[i] / images[i]) if images[i] else None,
            "correct": int(correct_images[i]),
            "incorrect": int(images[i] - correct_images[i]),
        }
        for i in range(BINS)
    ]


def calibration_error(bins: Table) -> float:
    """Return the expected calibration error of `calibration`'s rows (Guo et al., equation 3)."""
    sizes = [row["correct"] + row["incorrect"] for row in bins]
    gaps = [
        size * abs(row["accuracy"] - row["confidence"])
        for row, size in zip(bins, sizes, strict=True)
        if size
    ]
    return sum(gaps) / sum(sizes)
