"""Score the trained network on the test set."""

if __name__ == "__main__":
    from stages.common.frame import run

    run("stages.evaluate")

from pathlib import Path

from stages.common.params import load_params
from stages.common.splits import TEST, load_split
from stages.common.stage import Stage
from stages.evaluation.confusions import worst_confusions
from stages.evaluation.gallery import gallery
from stages.network.checkpoint import load_network
from stages.network.inference import predict_batches
from stages.scoring.scores import score

METRICS = Path("metrics/evaluate.json")
PREDICTIONS = Path("metrics/predictions.csv")
PER_CLASS = Path("metrics/per_class.csv")
CALIBRATION = Path("metrics/calibration.csv")
CONFUSIONS = Path("metrics/confusions.csv")
MISTAKES = Path("metrics/mistakes.png")


def main(stage: Stage) -> None:
    params = load_params().evaluate
    (network, _), test = load_network(), load_split(TEST)

    logits = predict_batches(network, test.images, params.batch_size)
    predicted = logits.argmax(dim=1)
    metrics = score(logits, test.labels, test.classes)
    classes, bins = metrics.pop("per_class"), metrics.pop("calibration")

    outputs = stage.outputs
    predictions = (
        (test.classes[actual], test.classes[other])
        for actual, other in zip(test.labels.tolist(), predicted.tolist(), strict=True)
    )
    outputs.write_csv(PREDICTIONS, ("actual", "predicted"), predictions)
    outputs.write_csv(PER_CLASS, classes[0], (row.values() for row in classes))
    outputs.write_csv(CALIBRATION, bins[0], (row.values() for row in bins))
    confusions = worst_confusions(predicted, test.labels, test.classes)
    outputs.write_csv(CONFUSIONS, ("pair", "images"), confusions)
    outputs.write_bytes(MISTAKES, gallery(test, logits))
    outputs.write_json(METRICS, metrics)
    print(f"Test accuracy: {metrics['accuracy']:.2%}, loss: {metrics['loss']:.6f}")
