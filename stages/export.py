"""Export the trained network in formats that load without this project, each checked against it."""

if __name__ == "__main__":
    from stages.common.frame import run

    run("stages.export")

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from stages.common.params import load_params
from stages.common.splits import TEST, TRAIN, load_split
from stages.common.stage import Stage
from stages.exporting.card import render
from stages.exporting.formats import FORMATS
from stages.exporting.torch_files import Classifier, release
from stages.exporting.trial import BATCH_SIZE, Trial, check, measure
from stages.network.checkpoint import load_network
from stages.network.inference import predict_batches
from stages.network.pixels import to_input
from stages.scoring.scores import score

CARD = Path("models/README.md")
METRICS = Path("metrics/export.json")
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def spread(images: torch.Tensor, count: int) -> torch.Tensor:
    """Return at most `count` of the images, of all places: they may stand in the order of classes."""
    count = min(count, len(images))
    return images[torch.arange(count) * len(images) // max(count, 1)]


def main(stage: Stage) -> None:
    params = load_params().export
    (network, record), test = load_network(), load_split(TEST)
    logits = predict_batches(network, test.images, BATCH_SIZE)
    scores = score(logits, test.labels, test.classes)
    expected = logits.softmax(dim=1)
    del logits  # of any number of images

    classifier = Classifier(
        network=nn.Sequential(network, nn.Softmax(dim=1)).eval().requires_grad_(False),
        provenance={
            **record,
            "test": {name: scores[name] for name in ("accuracy", "loss", "images")},
            "versions": {library: release(library) for library in LIBRARIES},
        },
        calibration=to_input(spread(load_split(TRAIN).images, params.calibration_images)),
    )
    with ThreadPoolExecutor(2) as pool:  # one format is tried while the next is written
        sizes, trials = [], list[Future[Trial]]()
        for form in FORMATS:
            content = form.write(classifier)
            with stage.outputs.file(form.file) as file:
                file.write_bytes(content)
            sizes.append({"format": form.name, "bytes": len(content)})
            trials.append(pool.submit(measure, form, file, test, expected))
        results = [trial.result() for trial in trials]

    for form, size, result in zip(FORMATS, sizes, results, strict=True):
        check(form, result, scores["accuracy"], params)
        print(
            f"{form.file}: {size['bytes']:,} bytes, accuracy {result.accuracy:.2%}, at most "
            f"{result.max_difference:.1e} from the eager network over {len(test):,} images"
        )
    stage.outputs.write_bytes(CARD, render(classifier.provenance, scores, sizes, params))
    stage.outputs.write_json(METRICS, sizes)
