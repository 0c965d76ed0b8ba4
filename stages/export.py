"""Export the trained network in formats that load without this project."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path

from common import errors, model_card, run_exported
from common.arrays import Split, load_split
from common.determinism import fix_arithmetic
from common.errors import UserError
from common.files import whole_file, write_bytes, write_json
from common.formats import FILES, to_int8, to_onnx, to_program, to_pt2, to_torchscript
from common.inference import accuracy, predict_batches
from common.params import ExportParams, load_params
from common.scores import score
from common.weights import load_network, load_record

import numpy as np
import torch
from torch import nn

CARD = Path("models/README.md")
METRICS = Path("metrics/export.json")
BATCH_SIZE = 250  # bounds memory only
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def write_models(
    classifier: nn.Module, provenance: dict, params: ExportParams, files: dict[str, Path]
) -> Iterator[str]:
    """Write each format to its path in `files`; yield its name when it is written."""
    if "torchscript" in files:
        files["torchscript"].write_bytes(to_torchscript(classifier, provenance))
        yield "torchscript"
    if set(files) & {"pt2", "onnx", "int8"}:
        program = to_program(classifier)
    if "pt2" in files:
        files["pt2"].write_bytes(to_pt2(program, provenance))
        yield "pt2"
    if "onnx" in files:
        files["onnx"].write_bytes(to_onnx(program, provenance))
        yield "onnx"
    if "int8" in files:
        training = load_split("train")
        files["int8"].write_bytes(to_int8(files["onnx"], training, params.calibration_images))
        yield "int8"


def answers(name: str, file: Path, test: Split) -> torch.Tensor:
    """Return the probabilities float32 [N, 10] that a file, in a fresh process, gives the test set.

    Raises:
        UserError: the file cannot be loaded or run.
    """
    output = file.with_suffix(".npy")
    command = [sys.executable, run_exported.__file__, name, str(file), str(output)]
    try:
        with tempfile.TemporaryFile("w+") as log:
            with (
                suppress(BrokenPipeError),  # it has ended, and its log says why
                subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as process,
            ):
                for images in test.batches(BATCH_SIZE):
                    process.stdin.write(images.numpy())
            if process.returncode:
                log.seek(0)
                reason = (log.read().splitlines() or [f"exit code {process.returncode}"])[-1]
                raise UserError(f"{FILES[name]}: does not run ({reason}); not exported")
        return torch.from_numpy(np.load(output))
    finally:
        output.unlink(missing_ok=True)


def measure(name: str, file: Path, test: Split, expected: torch.Tensor) -> dict:
    """Return the row of metrics/export.json; `expected` are the eager network's probabilities."""
    output = answers(name, file, test)
    return {
        "format": name,
        "accuracy": accuracy(output, test.labels),
        "max_difference": output.sub_(expected).abs_().max().item(),
        "bytes": file.stat().st_size,
    }


def check(metrics: dict, eager_accuracy: float, params: ExportParams) -> None:
    """Refuse an exported model that is not the eager one.

    Raises:
        UserError: a probability is off by more than `params.tolerance`, or the accuracy is another
            one; of an int8 model, the accuracy is lower by more than `params.max_accuracy_drop`.
    """
    file, drop = FILES[metrics["format"]], eager_accuracy - metrics["accuracy"]
    if metrics["format"] == "int8":
        if not drop <= params.max_accuracy_drop:
            raise UserError(
                f"{file}: test accuracy {metrics['accuracy']} is {drop:.4f} below the eager "
                f"network's, params.yaml: export.max_accuracy_drop allows "
                f"{params.max_accuracy_drop}; not exported"
            )
        return
    if not metrics["max_difference"] <= params.tolerance:  # "not <=" refuses nan too
        raise UserError(
            f"{file}: a probability is {metrics['max_difference']:.1e} from the eager "
            f"network's, params.yaml: export.tolerance allows {params.tolerance:.1e}; not exported"
        )
    if drop:
        raise UserError(
            f"{file}: test accuracy {metrics['accuracy']} is not the eager network's "
            f"{eager_accuracy}; not exported"
        )


def main() -> None:
    params = load_params().export
    fix_arithmetic(threads=1)
    network, test = load_network(), load_split("test")
    logits = predict_batches(network, test, BATCH_SIZE)
    scores = score(logits, test.labels)
    expected = logits.softmax(dim=1)
    del logits  # 40 bytes an image, of any number of images
    provenance = {
        **load_record(),
        "test": {name: scores[name] for name in ("accuracy", "loss", "images")},
        "versions": {library: version(library).split("+")[0] for library in LIBRARIES},
    }

    with ExitStack() as stack:
        files = {name: stack.enter_context(whole_file(FILES[name])) for name in params.formats}
        classifier = nn.Sequential(network, nn.Softmax(dim=1)).eval().requires_grad_(False)
        with ThreadPoolExecutor(2) as pool:  # one format is tried while the next is written
            tried = {
                name: pool.submit(measure, name, files[name], test, expected)
                for name in write_models(classifier, provenance, params, files)
            }
        metrics = [tried[name].result() for name in params.formats]
        for row in metrics:
            check(row, scores["accuracy"], params)
    for name in set(FILES) - set(params.formats):
        write_bytes(FILES[name], b"")  # DVC wants each output; empty says that it was not chosen
    write_bytes(CARD, model_card.render(provenance, scores, metrics))
    write_json(METRICS, metrics)
    for row in metrics:
        print(
            f"{FILES[row['format']]}: {row['bytes']:,} bytes, accuracy {row['accuracy']:.2%}, at most "
            f"{row['max_difference']:.1e} from the eager network over {len(test):,} images"
        )


if __name__ == "__main__":
    errors.run(main)
