import json
import math
from pathlib import Path

from common.arrays import save_split
from common.inference import accuracy, mean_loss, predict_batches
from common.networks import build
from common.weights import save_network
from evaluate import main, score, to_csv

import pytest
import torch
from conftest import split_of

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
    metrics = score(logits, torch.tensor([0, 1, 1]))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["loss"] == pytest.approx(200 / 3)
    assert metrics["images"] == 3
    zero, one, two, *others = metrics["per_class"]
    assert zero == {"class": 0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "images": 1}
    assert one == pytest.approx(
        {"class": 1, "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "images": 2}
    )
    assert two == {"class": 2, "precision": 0.0, "recall": 0.0, "f1": 0.0, "images": 0}
    assert [other["class"] for other in others] == [3, 4, 5, 6, 7, 8, 9]


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


def test_the_predictions_are_a_table_with_a_row_an_image():
    table = to_csv(torch.tensor([7, 2]), torch.tensor([7, 3]))
    assert table == b"actual,predicted\n7,7\n3,2\n"


def test_evaluate_scores_the_stored_network_on_the_test_set(
    params_file: Path, capsys: pytest.CaptureFixture[str]
):
    torch.manual_seed(0)
    network = build(network_of(dropout=0.5))
    save_network(network, network_of(dropout=0.5))
    predicted = predict_batches(network, SPLIT, batch_size=25).argmax(dim=1)
    labels = predicted.clone()
    labels[:5] = (labels[:5] + 1) % 10
    save_split("test", IMAGES.numpy(), labels.to(torch.uint8).numpy())
    main()
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert metrics["accuracy"] == 20 / 25
    assert metrics["images"] == 25
    rows = Path("metrics/predictions.csv").read_text().splitlines()
    assert rows[1:] == [
        f"{a},{b}" for a, b in zip(labels.tolist(), predicted.tolist(), strict=True)
    ]
    assert capsys.readouterr().out == f"Test accuracy: 80.00%, loss: {metrics['loss']:.6f}\n"
