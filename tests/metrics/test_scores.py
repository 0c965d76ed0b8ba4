import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from stages.metrics.scores import calibration, per_class, score, wilson_interval
from tests.samples import CLASSES


def test_the_score_of_known_predictions():
    # Three images of 0, 1, 1; the network predicts 0, 1, 2 with certainty.
    logits = torch.full((3, 10), -100.0)
    logits[[0, 1, 2], [0, 1, 2]] = 100.0
    labels = torch.tensor([0, 1, 1])
    scores = score(logits, labels, CLASSES)
    assert scores.per_class == per_class(logits, labels, CLASSES)
    assert scores.calibration == calibration(logits, labels)
    expected = {
        "accuracy": 2 / 3,
        "loss": 200 / 3,
        "calibration_error": 1 / 3,
        "macro_f1": (1 + 2 / 3) / 10,
        "images": 3,
    }
    assert {name: scores.metrics[name] for name in expected} == pytest.approx(expected)
    zero, one, two, *rest = per_class(logits, labels, CLASSES)
    assert (zero["precision"], zero["recall"], zero["f1"], zero["images"]) == (1, 1, 1, 1)
    assert (one["precision"], one["recall"], one["images"]) == (1, 0.5, 2)
    assert one["f1"] == pytest.approx(2 / 3)
    # Wilson's interval of 1 in 2, as published tables have it.
    assert (one["recall_low"], one["recall_high"]) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert (two["precision"], two["recall"], two["f1"], two["images"]) == (0, 0, 0, 0)
    assert (two["recall_low"], two["recall_high"]) == (0, 1)
    assert [row["class"] for row in rest] == list("3456789")


def test_calibration_compares_confidence_and_accuracy():
    """Confidence 75 %: six correct of eight are calibrated, eight of eight are underconfident."""
    probabilities = torch.full((8, 10), 0.25 / 9)
    probabilities[:, 3] = 0.75
    logits = probabilities.log()
    labels = torch.tensor([3] * 6 + [4] * 2)
    rows = calibration(logits, labels)
    assert [row["bin"] for row in rows[:2] + rows[-1:]] == [
        "0.00 to 0.07",
        "0.07 to 0.13",
        "0.93 to 1.00",
    ]
    [row] = [row for row in rows if row["accuracy"] is not None]
    assert row == {
        "bin": "0.73 to 0.80",
        "confidence": pytest.approx(0.75),
        "accuracy": 0.75,
        "correct": 6,
        "incorrect": 2,
    }
    assert len(rows) == 15
    assert sum(row["correct"] + row["incorrect"] for row in rows) == 8
    assert score(logits, labels, CLASSES).metrics["calibration_error"] == pytest.approx(0, abs=1e-6)
    all_correct = score(logits, torch.full((8,), 3), CLASSES)
    assert all_correct.metrics["calibration_error"] == pytest.approx(0.25, abs=1e-6)


def test_calibration_follows_the_papers_equations():
    """Equations 2 and 3, computed image by image."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (700,), generator=generator)
    logits = 2 * torch.randn(700, 10, generator=generator) + 2 * torch.eye(10)[labels]
    bins = {}
    for row, label in zip(logits.softmax(dim=1).double().tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        number = math.ceil(confidence * 15) - 1
        bins.setdefault(number, []).append((confidence, row.index(confidence) == label))
    means = {number: np.mean(rows, axis=0) for number, rows in sorted(bins.items())}
    rows = [row for row in calibration(logits, labels) if row["accuracy"] is not None]
    assert [row["correct"] + row["incorrect"] for row in rows] == [
        len(bins[number]) for number in means
    ]
    points = [(row["confidence"], row["accuracy"]) for row in rows]
    assert np.array(points) == pytest.approx(np.array(list(means.values())))
    error = sum(len(bins[number]) * abs(np.subtract(*mean)) for number, mean in means.items()) / 700
    assert score(logits, labels, CLASSES).metrics["calibration_error"] == pytest.approx(error)
    f1 = precision_recall_fscore_support(labels, logits.argmax(dim=1), average="macro")[2]
    assert score(logits, labels, CLASSES).metrics["macro_f1"] == pytest.approx(f1)


@pytest.mark.parametrize(("hits", "images"), [(0, 3), (3, 3), (1, 2), (957, 982), (0, 100_000)])
def test_the_interval_is_scipys(hits: int, images: int):
    expected = binomtest(hits, images).proportion_ci(method="wilson")
    low, high = wilson_interval(np.array([hits]), np.array([images]))
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)
