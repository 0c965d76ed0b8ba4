"""Score the trained network on the official test set."""

import csv
import io
from pathlib import Path

from common import errors
from common.arrays import load_split
from common.determinism import fix_arithmetic
from common.files import write_bytes, write_json
from common.inference import accuracy, mean_loss, predict_batches
from common.networks import CLASSES
from common.params import load_params
from common.weights import load_network

import torch
from sklearn.metrics import precision_recall_fscore_support

METRICS = Path("metrics/evaluate.json")
PREDICTIONS = Path("metrics/predictions.csv")


def score(logits: torch.Tensor, labels: torch.Tensor) -> dict:
    """Return the metrics of logits float32 [N, 10] against labels uint8 [N].

    `accuracy` is in [0, 1], `loss` the mean cross-entropy in nats, `images` N, `per_class` a list
    with precision, recall and F1 of each digit. (A list, because `dvc metrics` shows every number
    of a mapping as a column of its own.)
    """
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, logits.argmax(dim=1), labels=range(CLASSES), zero_division=0
    )
    return {
        "accuracy": accuracy(logits, labels),
        "loss": mean_loss(logits, labels),
        "images": len(labels),
        "per_class": [
            {
                "class": digit,
                "precision": float(precision[digit]),
                "recall": float(recall[digit]),
                "f1": float(f1[digit]),
                "images": int(support[digit]),
            }
            for digit in range(CLASSES)
        ],
    }


def to_csv(predicted: torch.Tensor, labels: torch.Tensor) -> bytes:
    """Return a CSV with the columns actual, predicted and one row an image, in the set's order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    writer.writerows(zip(labels.tolist(), predicted.tolist(), strict=True))
    return text.getvalue().encode()


def main() -> None:
    params = load_params().evaluate
    fix_arithmetic(threads=1)
    network = load_network()
    test = load_split("test")
    logits = predict_batches(network, test, params.batch_size)
    metrics = score(logits, test.labels)
    write_bytes(PREDICTIONS, to_csv(logits.argmax(dim=1), test.labels))
    write_json(METRICS, metrics)
    print(f"Test accuracy: {metrics['accuracy']:.2%}, loss: {metrics['loss']:.6f}")


if __name__ == "__main__":
    errors.run(main)
