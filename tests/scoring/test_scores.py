import math

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from stages.scoring.scores import calibration, per_class, score
from tests.samples import CLASSES


def test_the_score_of_known_answers():
    # Three images of 0, 1, 1; the network is sure of 0, 1, 2.
    logits = torch.full((3, 10), -100.0)
    logits[[0, 1, 2], [0, 1, 2]] = 100.0
    labels = torch.tensor([0, 1, 1])
    metrics = score(logits, labels, CLASSES)
    assert metrics.pop("per_class") == per_class(logits, labels, CLASSES)
    assert metrics.pop("calibration") == calibration(logits, labels)
    assert metrics == pytest.approx(
        {
            "accuracy": 2 / 3,
            "loss": 200 / 3,
            "calibration_error": 1 / 3,
            "macro_f1": (1 + 2 / 3) / 10,
            "images": 3,
        }
    )
    zero, one, two, *others = per_class(logits, labels, CLASSES)
    assert (zero["precision"], zero["recall"], zero["f1"], zero["images"]) == (1, 1, 1, 1)
    assert (one["precision"], one["recall"], one["images"]) == (1, 0.5, 2)
    assert one["f1"] == pytest.approx(2 / 3)
    # Wilson's interval of 1 in 2, as published tables have it.
    assert (one["recall_low"], one["recall_high"]) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert (two["precision"], two["recall"], two["f1"], two["images"]) == (0, 0, 0, 0)
    assert (two["recall_low"], two["recall_high"]) == (0, 1)
    assert [other["class"] for other in others] == list("3456789")


def test_calibration_compares_confidence_and_share_right():
    """Eight answers of 75 %, six of them right, are calibrated; all right, they are not sure enough."""
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
        "right": 6,
        "wrong": 2,
    }
    assert len(rows) == 15
    assert sum(row["right"] + row["wrong"] for row in rows) == 8
    assert score(logits, labels, CLASSES)["calibration_error"] == pytest.approx(0, abs=1e-6)
    everything_right = score(logits, torch.full((8,), 3), CLASSES)
    assert everything_right["calibration_error"] == pytest.approx(0.25, abs=1e-6)


def test_calibration_of_many_answers_is_the_papers():
    """Written out anew, image by image, from equations 2 and 3."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (700,), generator=generator)
    logits = 2 * torch.randn(700, 10, generator=generator) + 2 * torch.eye(10)[labels]
    bins = {}
    for row, label in zip(logits.softmax(dim=1).double().tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        place = math.ceil(confidence * 15) - 1
        bins.setdefault(place, []).append((confidence, row.index(confidence) == label))
    means = {place: np.mean(answers, axis=0) for place, answers in sorted(bins.items())}
    rows = [row for row in calibration(logits, labels) if row["accuracy"] is not None]
    assert [row["right"] + row["wrong"] for row in rows] == [len(bins[place]) for place in means]
    found = [(row["confidence"], row["accuracy"]) for row in rows]
    assert np.array(found) == pytest.approx(np.array(list(means.values())))
    error = sum(len(bins[place]) * abs(np.subtract(*mean)) for place, mean in means.items()) / 700
    assert score(logits, labels, CLASSES)["calibration_error"] == pytest.approx(error)
    f1 = precision_recall_fscore_support(labels, logits.argmax(dim=1), average="macro")[2]
    assert score(logits, labels, CLASSES)["macro_f1"] == pytest.approx(f1)
