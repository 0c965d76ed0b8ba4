"""Bring the images and labels into three files: training, validation and test set."""

if __name__ == "__main__":
    from stages.common.frame import run

    run("stages.prepare")

from pathlib import Path

from stages.common.params import load_params
from stages.common.splits import TEST, TRAIN, VALIDATION, save_split
from stages.common.stage import Stage
from stages.datasets.dataset import load
from stages.datasets.dividing import divide
from stages.datasets.summary import draw_samples, summarise

METRICS = Path("metrics/dataset.json")
SAMPLES = Path("metrics/samples.png")


def main(stage: Stage) -> None:
    params = load_params().prepare
    dataset = load(params)
    parts = dict(zip((TRAIN, VALIDATION, TEST), divide(dataset, params), strict=True))
    for path, indices in parts.items():
        save_split(stage.outputs, path, dataset.images, dataset.labels, dataset.about, indices)
    stage.outputs.write_json(METRICS, summarise(dataset, parts))
    stage.outputs.write_bytes(SAMPLES, draw_samples(dataset, parts[TRAIN]))
    train, validation, test = map(len, parts.values())
    print(
        f"{params.dataset}: {train:,} training, {validation:,} validation, {test:,} test images of "
        f"{len(dataset.about['classes']):,} classes"
    )
