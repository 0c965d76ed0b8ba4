import json
import re

import torch
from huggingface_hub import ModelCard

from stages.exporting.card import _cell, render
from stages.exporting.formats import FORMATS
from stages.exporting.params import ExportParams
from stages.metrics.scores import score
from tests.samples import CLASSES, TRAINING

NETWORK = {"kind": "feed_forward", "hidden_sizes": [16]}
PROVENANCE = {
    "shape": [1, 28, 28],
    "network": NETWORK,
    "training": TRAINING | {"images": 54_321, "recipe": "mine", "parameters": {"epochs": 7}},
}
SIZES = [{"format": form.name, "bytes": 1_000 + number} for number, form in enumerate(FORMATS)]
PARAMS = ExportParams(tolerance=1e-4, calibration_images=1, max_accuracy_drop=0.03)
# Three images of 0, 1, 1; read as 0, 1, 2, each with certainty.
SCORES = score(100.0 * torch.eye(10)[:3], torch.tensor([0, 1, 1]), CLASSES)
CARD = render(PROVENANCE, SCORES, SIZES, PARAMS).decode()


def cells(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without the table's own heading."""
    table = CARD.partition(f"{heading}\n")[2].partition("\n| ")[2].partition("\n\n")[0]
    rows = table.splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_hugging_faces_hub_finds_what_it_reads():
    front = ModelCard(CARD).data
    assert (front.license, front.pipeline_tag) == ("other", "image-classification")
    assert (front.model_name, front.datasets) == ("of a test-mine", ["of a test"])
    measured = {one.metric_type: one.metric_value for one in front.eval_results}
    assert measured == {
        "accuracy": SCORES.metrics["accuracy"],
        "f1": SCORES.metrics["macro_f1"],
        "loss": SCORES.metrics["loss"],
    }
    assert {one.dataset_name for one in front.eval_results} == {"Of a test"}


def test_it_says_what_was_trained_on_what():
    assert "A feed-forward network" in CARD
    assert "of a test: 54,321 images for training, 3 for the test" in CARD
    assert "Recipe `mine`" in CARD
    classes, parameters = map(json.loads, re.findall(r"```json\n(.*?)```", CARD, re.DOTALL))
    assert classes == CLASSES
    assert parameters == {"network": NETWORK, "epochs": 7}


def test_it_says_which_weights_the_training_started_from():
    assert "It started from" not in CARD
    given = {"file": "weights/a.pth", "sha256": "0" * 64, "random": ["fc.weight", "fc.bias"]}
    training = PROVENANCE["training"] | {"initial_weights": given}
    card = render(PROVENANCE | {"training": training}, SCORES, SIZES, PARAMS).decode()
    assert (
        "\n```\n\nIt started from the weights in `weights/a.pth`, with the SHA-256\n"
        f"`{'0' * 64}`; random was `fc.weight`, `fc.bias`.\n\n## Results" in card
    )


def test_it_says_which_predictions_are_called_unsure():
    assert "\n`predict` and the demo call predictions below 90.00% unsure: " in CARD
    training = PROVENANCE["training"] | {"unsure_below": None}  # there was no validation set
    card = render(PROVENANCE | {"training": training}, SCORES, SIZES, PARAMS).decode()
    assert "unsure" not in card


def test_it_has_every_class_and_the_bins_that_have_images():
    assert "Accuracy 66.67%, loss 33.3333 nats, macro F1 0.1667." in CARD
    zero, one, *others = cells("## Results on the test set")
    assert zero == ["0", "100.00%", "100.00%", "20.65% to 100.00%", "1.0000", "1"]
    assert one == ["1", "100.00%", "50.00%", "9.45% to 90.55%", "0.6667", "2"]
    assert [row[0] for row in others] == list("23456789")
    assert "Expected calibration error 0.3333" in CARD
    assert cells("### Calibration") == [["0.93 to 1.00", "100.00%", "66.67%", "3"]]


def test_it_has_a_row_for_each_file():
    assert cells("## Files") == [
        [f"`{form.file.name}`", form.description, f"1,00{number}"]
        for number, form in enumerate(FORMATS)
    ]
    assert "within\n1e-04 of" in CARD
    assert "at most 3.0%" in CARD


def test_a_class_is_shown_as_it_is_named():
    """Markdown reads `&amp;` as `&`."""
    assert _cell("a&amp;b|c") == r"a\&amp;b\|c"
