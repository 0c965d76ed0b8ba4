"""Run an exported file as a stranger would: in a process of its own, by the lines of the model card.

What comes out depends on the processor, for which ONNX Runtime picks its kernels, so it is checked and
told, but stands in no file.
"""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from stages.common.errors import UserError
from stages.common.files import temporary_folder
from stages.common.params import SIDE, ExportParams
from stages.common.splits import Split
from stages.exporting.formats import Format
from stages.network.inference import accuracy
from stages.network.pixels import to_input

BATCH_SIZE = 250  # bounds memory only
# Images come by a pipe, as bytes, batch by batch.
PROGRAM = """{usage}

import gc, sys, numpy
outputs = []
while content := sys.stdin.buffer.read({bytes}):
    images = numpy.frombuffer(bytearray(content), "float32").reshape(-1, 1, {side}, {side})
    outputs.append(classify(images))
numpy.save({output!r}, numpy.concatenate(outputs))
gc.freeze()  # else Python would look for cycles among all of torch's objects as it ends
"""


class Trial(NamedTuple):
    accuracy: float
    max_difference: float  # of a probability from the eager network's


def measure(form: Format, file: Path, test: Split, expected: torch.Tensor) -> Trial:
    """Try a file on the test set.

    `expected` are the eager network's probabilities, float32 [N, classes].

    Raises:
        UserError: the file cannot be loaded or run.
    """
    output = probabilities(form, file, test.images)
    return Trial(accuracy(output, test.labels), output.sub_(expected).abs_().max().item())


def probabilities(form: Format, file: Path, images: torch.Tensor) -> torch.Tensor:
    """Return the probabilities float32 [N, classes] that a file gives images uint8 [N, 28, 28].

    Raises:
        UserError: the file cannot be loaded or run.
    """
    with temporary_folder() as folder, (folder / "log").open("w+") as log:
        output = folder / "probabilities.npy"
        program = PROGRAM.format(
            usage=form.usage(file.absolute()),
            bytes=BATCH_SIZE * SIDE * SIDE * 4,
            side=SIDE,
            output=str(output),
        )
        # -I: neither this folder nor the user's own packages can be imported.
        command = [sys.executable, "-I", "-c", program]
        with (
            suppress(BrokenPipeError),  # it has ended, and its log says why
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log) as process,
        ):
            for batch in images.split(BATCH_SIZE):
                process.stdin.write(to_input(batch).numpy())
        if process.returncode:
            log.seek(0)
            reason = (log.read().splitlines() or [f"exit code {process.returncode}"])[-1]
            raise UserError(f"{form.file}: does not run ({reason}); not exported")
        return torch.from_numpy(np.load(output))


def check(form: Format, trial: Trial, eager_accuracy: float, params: ExportParams) -> None:
    """Refuse an exported model that is not the eager one.

    Raises:
        UserError: a probability is off by more than `params.tolerance`, or the accuracy is another
            one; of an inexact format, the accuracy is lower by more than `params.max_accuracy_drop`.
    """
    drop = eager_accuracy - trial.accuracy
    if not form.exact:
        if not drop <= params.max_accuracy_drop:
            raise UserError(
                f"{form.file}: test accuracy {trial.accuracy} is {drop:.4f} below the eager "
                f"network's, params.yaml: export.max_accuracy_drop allows "
                f"{params.max_accuracy_drop}; not exported"
            )
        return
    if not trial.max_difference <= params.tolerance:  # "not <=" refuses nan too
        raise UserError(
            f"{form.file}: a probability is {trial.max_difference:.1e} from the eager "
            f"network's, params.yaml: export.tolerance allows {params.tolerance:.1e}; not exported"
        )
    if drop:
        raise UserError(
            f"{form.file}: test accuracy {trial.accuracy} is not the eager network's "
            f"{eager_accuracy}; not exported"
        )
