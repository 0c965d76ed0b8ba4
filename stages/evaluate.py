"""Score the trained network on the official test set."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from common import errors
from common.arrays import load_split
from common.determinism import fix_arithmetic
from common.files import whole_file, write_bytes, write_json
from common.inference import predict_batches
from common.mistakes import gallery
from common.params import load_params
from common.scores import BINS, bin_name, score
from common.weights import load_network

import torch

METRICS = Path("metrics/evaluate.json")
PER_CLASS = Path("metrics/per_class.csv")
PREDICTIONS = Path("metrics/predictions.csv")
CALIBRATION = Path("metrics/calibration.csv")
CONFIDENCE = Path("metrics/confidence.csv")
CONFUSIONS = Path("metrics/confusions.csv")
MISTAKES = Path("metrics/mistakes.png")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def confidence_histogram(bins: list[dict]) -> list[tuple[str, int, int]]:
    """Return how many answers of each bin of confidence (see `calibration`) are right and wrong."""
    rows = {bin_name(index): (0, 0) for index in range(BINS)}
    for row in bins:
        right = round(row["accuracy"] * row["images"])
        rows[row["bin"]] = (right, row["images"] - right)
    return [(name, *counts) for name, counts in rows.items()]


def worst_confusions(predicted: torch.Tensor, labels: torch.Tensor) -> list[tuple[str, int]]:
    """Return the ten pairs of digits most often taken for each other, and how often."""
    pairs = zip(labels.tolist(), predicted.tolist(), strict=True)
    counts = Counter(pair for pair in pairs if pair[0] != pair[1])
    worst = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    return [(f"{actual} read as {other}", count) for (actual, other), count in worst]


def main() -> None:
    params = load_params().evaluate
    fix_arithmetic(threads=1)
    network, test = load_network(), load_split("test")
    logits = predict_batches(network, test, params.batch_size)
    predicted = logits.argmax(dim=1)
    metrics = score(logits, test.labels)
    digits, bins = metrics.pop("per_class"), metrics.pop("calibration")
    predictions = zip(test.labels.tolist(), predicted.tolist(), strict=True)
    write_csv(PREDICTIONS, ("actual", "predicted"), predictions)
    write_csv(PER_CLASS, digits[0], (row.values() for row in digits))
    write_csv(CALIBRATION, bins[0], (row.values() for row in bins))
    write_csv(CONFIDENCE, ("confidence", "right", "wrong"), confidence_histogram(bins))
    write_csv(CONFUSIONS, ("pair", "images"), worst_confusions(predicted, test.labels))
    write_bytes(MISTAKES, gallery(test, logits))
    write_json(METRICS, metrics)
    print(f"Test accuracy: {metrics['accuracy']:.2%}, loss: {metrics['loss']:.6f}")


if __name__ == "__main__":
    errors.run(main)
