"""Writes the images and labels of a data set as training, validation and test set."""

if __name__ == "__main__":
    from stages.runtime.runner import run

    run("stages.prepare")

from pathlib import Path

import numpy as np

from stages.datasets.dataset import load
from stages.datasets.duplicates import warn_of_near_duplicates
from stages.datasets.params import PrepareParams
from stages.datasets.splitting import split
from stages.datasets.summary import draw_samples, summarise
from stages.runtime.inputs import Inputs
from stages.runtime.outputs import Outputs
from stages.runtime.splits import TEST, TRAIN, VALIDATION, checksum, save_split

METRICS = Path("metrics/dataset.json")
SAMPLES = Path("metrics/samples.svg")


def main(inputs: Inputs, outputs: Outputs) -> None:
    params = inputs.section("prepare", PrepareParams)
    dataset = load(params, inputs)
    splits = dict(zip((TRAIN, VALIDATION, TEST), split(dataset, params), strict=True))
    others = np.concatenate([splits[TRAIN], splits[VALIDATION]])
    near_duplicates = warn_of_near_duplicates(dataset, splits[TEST], others)
    about = dataset.about | {"splits_sha256": checksum(*splits.values())}
    for path, indices in splits.items():
        # Others need no paths: by a new name of a picture alone, the network is not trained again.
        paths = dataset.paths if path == TEST else None
        save_split(outputs, path, dataset.images, dataset.labels, about, indices, paths)
    outputs.write_json(METRICS, summarise(dataset, splits, near_duplicates))
    outputs.write_bytes(SAMPLES, draw_samples(dataset, splits[TRAIN], params.seed))
    train, validation, test = map(len, splits.values())
    print(
        f"{params.dataset}: {train:,} training, {validation:,} validation, {test:,} test images of "
        f"{len(dataset.about['classes']):,} classes"
    )
