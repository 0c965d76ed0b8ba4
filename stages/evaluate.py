"""Score the trained network on the test set."""

if __name__ == "__main__":
    from stages.runtime.runner import run

    run("stages.evaluate")

from pathlib import Path

from stages.metrics.scores import score
from stages.networks.checkpoint import load_network
from stages.networks.inference import predict_batches
from stages.reporting.confusions import worst_confusions
from stages.reporting.mistakes import Mistake, find_mistakes, gallery
from stages.reporting.params import EvaluateParams
from stages.runtime.inputs import Inputs
from stages.runtime.outputs import Outputs
from stages.runtime.splits import TEST, load_split

METRICS = Path("metrics/evaluate.json")
PREDICTIONS = Path("metrics/predictions.csv")
PER_CLASS = Path("metrics/per_class.csv")
CALIBRATION = Path("metrics/calibration.csv")
CONFUSIONS = Path("metrics/confusions.csv")
MISTAKES = Path("metrics/mistakes.csv")
GALLERY = Path("metrics/mistakes.svg")


def main(inputs: Inputs, outputs: Outputs) -> None:
    params = inputs.section("evaluate", EvaluateParams)
    network, record = load_network(inputs)
    test = load_split(TEST, inputs, record["training"]["dataset"])

    logits = predict_batches(network, test.images, params.batch_size)
    predicted = logits.argmax(dim=1)
    scores = score(logits, test.labels, test.classes)

    names = [
        [test.classes[label] for label in labels.tolist()] for labels in (test.labels, predicted)
    ]
    outputs.write_csv(PREDICTIONS, ("actual", "predicted"), zip(*names, strict=True))
    for path, table in ((PER_CLASS, scores.per_class), (CALIBRATION, scores.calibration)):
        outputs.write_csv(path, table[0], (row.values() for row in table))
    confusions = worst_confusions(predicted, test.labels, test.classes)
    outputs.write_csv(CONFUSIONS, ("pair", "images"), confusions)
    wrong, mistakes = find_mistakes(test, logits)
    outputs.write_csv(MISTAKES, Mistake._fields, mistakes)
    outputs.write_bytes(GALLERY, gallery(test, wrong, mistakes))
    outputs.write_json(METRICS, scores.metrics)
    accuracy, loss = scores.metrics["accuracy"], scores.metrics["loss"]
    print(f"Test accuracy: {accuracy:.2%}, loss: {loss:.6f}")
