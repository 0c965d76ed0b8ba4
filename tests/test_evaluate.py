import csv
import io
import json
import math
from pathlib import Path

from common.arrays import save_split
from common.inference import accuracy, mean_loss, predict_batches
from common.mistakes import gallery
from common.networks import build
from common.scores import calibration, per_class, score
from common.weights import save_network
from evaluate import confidence_histogram, main, worst_confusions

import numpy as np
import pytest
import torch
from conftest import DATASET, TRAINING, split_of
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

IMAGES = torch.randint(
    0, 256, (25, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.zeros(25, dtype=torch.uint8)
SPLIT = split_of(IMAGES, LABELS)


def network_of(dropout: float) -> dict:
    return {
        "network": "feed_forward",
        "hidden_sizes": [16],
        "activations": ["tanh"],
        "dropout": dropout,
    }


def test_the_score_of_known_answers():
    # Three images of 0, 1, 1; the network is sure of 0, 1, 2.
    logits = torch.full((3, 10), -100.0)
    logits[[0, 1, 2], [0, 1, 2]] = 100.0
    labels = torch.tensor([0, 1, 1])
    metrics = score(logits, labels)
    assert metrics.pop("per_class") == per_class(logits, labels)
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
    zero, one, two, *others = per_class(logits, labels)
    assert (zero["precision"], zero["recall"], zero["f1"], zero["images"]) == (1, 1, 1, 1)
    assert (one["precision"], one["recall"], one["images"]) == (1, 0.5, 2)
    assert one["f1"] == pytest.approx(2 / 3)
    # Wilson's interval of 1 in 2, as published tables have it.
    assert (one["recall_low"], one["recall_high"]) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert (two["precision"], two["recall"], two["f1"], two["images"]) == (0, 0, 0, 0)
    assert (two["recall_low"], two["recall_high"]) == (0, 1)
    assert [other["class"] for other in others] == [3, 4, 5, 6, 7, 8, 9]


def test_the_scores_of_each_digit_are_scikit_learns_and_scipys():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 9, (500,), generator=generator)  # no 9
    logits = torch.randn(500, 10, generator=generator) + 2 * torch.eye(10)[labels]
    rows = per_class(logits, labels)
    expected = precision_recall_fscore_support(
        labels, logits.argmax(dim=1), labels=range(10), zero_division=0
    )
    for name, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        assert [row[name] for row in rows] == pytest.approx(values.tolist())
    for row in rows[:9]:
        found = binomtest(round(row["recall"] * row["images"]), row["images"])
        interval = found.proportion_ci(0.95, method="wilson")
        assert (row["recall_low"], row["recall_high"]) == pytest.approx(
            (interval.low, interval.high)
        )


def test_calibration_compares_confidence_and_share_right():
    """Ten answers of 80 %, eight of them right, are calibrated; all right, they are not sure enough."""
    probabilities = torch.full((10, 10), 0.2 / 9)
    probabilities[:, 3] = 0.8
    logits = probabilities.log()
    labels = torch.tensor([3] * 8 + [4] * 2)
    [row] = calibration(logits, labels)
    assert (row["confidence"], row["accuracy"]) == pytest.approx((0.8, 0.8))
    assert row["bin"] == "0.73 to 0.80"
    assert row["images"] == 10
    assert score(logits, labels)["calibration_error"] == pytest.approx(0, abs=1e-6)
    everything_right = score(logits, torch.full((10,), 3))
    assert everything_right["calibration_error"] == pytest.approx(0.2, abs=1e-6)


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
    rows = calibration(logits, labels)
    assert [row["images"] for row in rows] == [len(bins[place]) for place in means]
    found = [(row["confidence"], row["accuracy"]) for row in rows]
    assert np.array(found) == pytest.approx(np.array(list(means.values())))
    error = sum(len(bins[place]) * abs(np.subtract(*mean)) for place, mean in means.items()) / 700
    assert score(logits, labels)["calibration_error"] == pytest.approx(error)
    f1 = precision_recall_fscore_support(labels, logits.argmax(dim=1), average="macro")[2]
    assert score(logits, labels)["macro_f1"] == pytest.approx(f1)
    assert len(worst_confusions(logits.argmax(dim=1), labels)) == 10


def test_the_confidence_histogram_has_every_image_once():
    probabilities = torch.eye(10)[[1, 1, 2]] * 0.5 + 0.05
    probabilities[0] = torch.eye(10)[1]
    logits = probabilities.log()
    labels = torch.tensor([1, 2, 2])
    rows = confidence_histogram(calibration(logits, labels))
    assert len(rows) == 15
    assert sum(right for _, right, _ in rows) == 2
    assert sum(wrong for *_, wrong in rows) == 1
    assert rows[-1] == ("0.93 to 1.00", 1, 0)
    assert rows[8] == ("0.53 to 0.60", 1, 1)


def test_the_worst_pairs_come_first():
    labels = torch.tensor([4, 4, 4, 9, 7, 7, 0])
    predicted = torch.tensor([9, 9, 4, 4, 1, 1, 0])
    assert worst_confusions(predicted, labels) == [
        ("4 read as 9", 2),
        ("7 read as 1", 2),
        ("9 read as 4", 1),
    ]


def test_the_gallery_shows_the_most_confident_mistakes():
    logits = torch.zeros(25, 10)
    logits[:, 0] = torch.arange(25) / 5.0  # all are read as 0, the last ones most surely
    labels = torch.ones(25, dtype=torch.uint8)
    labels[24] = 0
    split = split_of(IMAGES, labels)
    picture = Image.open(io.BytesIO(gallery(split, logits)))
    assert picture.size == (6 * 100, 4 * 126)
    first = np.asarray(picture)[8 : 8 + 84 : 3, 8 : 8 + 84 : 3]
    assert np.array_equal(first, 255 - IMAGES[23].numpy())
    nothing_wrong = gallery(split_of(IMAGES, torch.zeros(25)), logits)
    assert Image.open(io.BytesIO(nothing_wrong)).size == (600, 126)


def test_the_loss_of_a_network_that_knows_nothing_is_the_entropy_of_ten_classes():
    assert mean_loss(torch.zeros(5, 10), torch.arange(5)) == pytest.approx(math.log(10))
    assert accuracy(torch.zeros(5, 10), torch.zeros(5).long()) == 1.0


def test_the_batch_size_shows_in_rounding_alone():
    torch.manual_seed(0)
    network = build(network_of(dropout=0.5))
    whole = predict_batches(network, SPLIT, batch_size=100)
    assert whole.shape == (25, 10)
    for batch_size in (1, 7, 25):
        torch.testing.assert_close(predict_batches(network, SPLIT, batch_size), whole)


def test_dropout_is_off_and_no_gradient_is_kept():
    network = build(network_of(dropout=0.9)).train()
    once, again = (predict_batches(network, SPLIT, batch_size=10) for _ in range(2))
    assert torch.equal(once, again)
    assert not once.requires_grad


def test_no_images_give_no_answers():
    network = build(network_of(dropout=0.5))
    assert predict_batches(network, split_of(IMAGES[:0], LABELS[:0]), batch_size=10).shape == (
        0,
        10,
    )


def test_evaluate_scores_the_stored_network_on_the_test_set(
    params_file: Path, capsys: pytest.CaptureFixture[str]
):
    torch.manual_seed(0)
    network = build(network_of(dropout=0.5))
    save_network(network, network_of(dropout=0.5), TRAINING)
    predicted = predict_batches(network, SPLIT, batch_size=25).argmax(dim=1)
    labels = predicted.clone()
    labels[:5] = (labels[:5] + 1) % 10
    save_split("test", IMAGES.numpy(), labels.to(torch.uint8).numpy(), DATASET)
    main()
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert metrics["accuracy"] == 20 / 25
    assert metrics["images"] == 25
    rows = Path("metrics/predictions.csv").read_text().splitlines()
    assert rows[1:] == [
        f"{a},{b}" for a, b in zip(labels.tolist(), predicted.tolist(), strict=True)
    ]

    def table(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(Path(f"metrics/{name}.csv").read_text().splitlines()))

    assert [row["class"] for row in table("per_class")] == [str(digit) for digit in range(10)]
    assert sum(int(row["images"]) for row in table("per_class")) == 25
    assert sum(int(row["images"]) for row in table("calibration")) == 25
    answers = [(int(row["right"]), int(row["wrong"])) for row in table("confidence")]
    assert np.sum(answers, axis=0).tolist() == [20, 5]
    pairs = {(row["pair"], int(row["images"])) for row in table("confusions")}
    assert pairs == set(worst_confusions(predicted, labels.to(torch.uint8)))
    assert all(
        f"{actual} read as {said}" in {pair for pair, _ in pairs}
        for actual, said in zip(labels[:5].tolist(), predicted[:5].tolist(), strict=True)
    )
    assert capsys.readouterr().out == f"Test accuracy: 80.00%, loss: {metrics['loss']:.6f}\n"
