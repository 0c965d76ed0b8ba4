import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.evaluate import main
from stages.networks.checkpoint import save_network
from stages.networks.inference import predict_batches
from stages.networks.registry import build
from stages.reporting.confusions import worst_confusions
from stages.runtime.splits import TEST
from tests.samples import CLASSES, NETWORK, SHAPE, TRAINING, random_images, run_stage, store, write

IMAGES = random_images(25)


def test_evaluate_scores_the_stored_network_on_the_test_set(
    params_file: Path, capsys: pytest.CaptureFixture[str]
):
    torch.manual_seed(0)
    network = build(NETWORK, SHAPE, 10)
    write(lambda outputs: save_network(outputs, network, NETWORK, SHAPE, TRAINING))
    predicted = predict_batches(network, IMAGES, batch_size=25).argmax(dim=1)
    labels = predicted.clone()
    labels[:5] = (labels[:5] + 1) % 10
    store(TEST, IMAGES, labels)
    run_stage(main)
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
    assert len(table("calibration")) == 15
    counts = [(int(row["correct"]), int(row["incorrect"])) for row in table("calibration")]
    assert np.sum(counts, axis=0).tolist() == [20, 5]
    empty = [row for row in table("calibration") if row["correct"] == row["incorrect"] == "0"]
    assert empty
    assert all(row["confidence"] == row["accuracy"] == "" for row in empty)
    mistakes = table("mistakes")
    assert {row["picture"] for row in mistakes} == set("01234")
    assert [float(row["probability"]) for row in mistakes] == sorted(
        (float(row["probability"]) for row in mistakes), reverse=True
    )
    for row in mistakes:
        index = int(row["picture"])
        assert [row["actual"], row["predicted"]] == rows[1 + index].split(",")
    pairs = {(row["pair"], int(row["images"])) for row in table("confusions")}
    assert pairs == set(worst_confusions(predicted, labels, CLASSES))
    assert all(
        f"{actual} predicted as {label}" in {pair for pair, _ in pairs}
        for actual, label in zip(labels[:5].tolist(), predicted[:5].tolist(), strict=True)
    )
    assert capsys.readouterr().out == f"Test accuracy: 80.00%, loss: {metrics['loss']:.6f}\n"
