"""Writes the images and labels of a data set as training, validation and test set."""

if __name__ == "__main__":
    from stages.runtime.runner import run

    run("stages.prepare")

from pathlib import Path

from stages.datasets.dataset import load
from stages.datasets.params import PrepareParams
from stages.datasets.splitting import split
from stages.datasets.summary import draw_samples, summarise
from stages.runtime.runner import Run
from stages.runtime.splits import TEST, TRAIN, VALIDATION, save_split

METRICS = Path("metrics/dataset.json")
SAMPLES = Path("metrics/samples.png")


def main(run: Run) -> None:
    params = run.section("prepare", PrepareParams)
    dataset = load(params)
    splits = dict(zip((TRAIN, VALIDATION, TEST), split(dataset, params), strict=True))
    for path, indices in splits.items():
        save_split(run.outputs, path, dataset.images, dataset.labels, dataset.about, indices)
    run.outputs.write_json(METRICS, summarise(dataset, splits))
    run.outputs.write_bytes(SAMPLES, draw_samples(dataset, splits[TRAIN]))
    train, validation, test = map(len, splits.values())
    print(
        f"{params.dataset}: {train:,} training, {validation:,} validation, {test:,} test images of "
        f"{len(dataset.about['classes']):,} classes"
    )
