"""Export the trained network in formats that load without this project, each checked against it."""

if __name__ == "__main__":
    from stages.runtime.runner import run

    run("stages.export")

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from stages.exporting import hub
from stages.exporting.card import render
from stages.exporting.formats import FORMATS
from stages.exporting.params import ExportParams
from stages.exporting.torch_files import Classifier, release
from stages.exporting.verification import BATCH_SIZE, Measurement, Verifier, check
from stages.metrics.scores import score
from stages.networks.checkpoint import load_network
from stages.networks.inference import predict_batches
from stages.networks.pixels import to_input
from stages.runtime.inputs import Inputs
from stages.runtime.outputs import Outputs, temporary_folder
from stages.runtime.splits import TEST, TRAIN, load_split

CARD = Path("models/README.md")
SIZES = Path("metrics/export.json")
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def spread(images: torch.Tensor, count: int) -> torch.Tensor:
    """Return at most `count` of the images, at equal distances: they may be in order of classes."""
    count = min(count, len(images))
    return images[torch.arange(count) * len(images) // max(count, 1)]


def main(inputs: Inputs, outputs: Outputs) -> None:
    params = inputs.section("export", ExportParams)
    network, record = load_network(inputs)
    dataset = record["training"]["dataset"]
    test, training = load_split(TEST, inputs, dataset), load_split(TRAIN, inputs, dataset)
    logits = predict_batches(network, test.images, BATCH_SIZE)
    scores = score(logits, test.labels, test.classes)
    expected = logits.softmax(dim=1)
    del logits  # of any number of images

    classifier = Classifier(
        network=nn.Sequential(network, nn.Softmax(dim=1)).eval().requires_grad_(False),
        provenance={
            **record,
            "test": {name: scores.metrics[name] for name in ("accuracy", "loss", "images")},
            "versions": {library: release(library) for library in LIBRARIES},
        },
        calibration=to_input(spread(training.images, params.calibration_images)),
    )
    sizes, futures = [], list[Future[Measurement]]()
    # One file is checked while the next is written.
    with temporary_folder() as folder, ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        for form in FORMATS:
            with outputs.file(form.file) as file:
                verifier = Verifier(form, file, test, folder)
                stack.callback(verifier.stop)
                content = form.write(classifier)
                file.write_bytes(content)
            sizes.append({"format": form.name, "bytes": len(content)})
            futures.append(pool.submit(verifier.measure, expected))
        results = [future.result() for future in futures]

    for form, size, result in zip(FORMATS, sizes, results, strict=True):
        check(form, result, scores.metrics["accuracy"], params)
        print(
            f"{form.file}: {size['bytes']:,} bytes, accuracy {result.accuracy:.2%}, at most "
            f"{result.max_difference:.1e} from the eager network over {len(test):,} images"
        )
    hub.write(outputs, network, classifier.provenance)
    outputs.write_bytes(CARD, render(classifier.provenance, scores, sizes, params))
    outputs.write_json(SIZES, sizes)
