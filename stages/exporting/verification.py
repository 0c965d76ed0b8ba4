"""Runs an exported file as a stranger would: in a process of its own, by the lines of the model card.

ONNX Runtime picks its kernels by processor, so the results are checked and printed, but no tracked file
holds them.
"""

import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from stages.exporting.formats import Format
from stages.exporting.params import ExportParams
from stages.networks.inference import accuracy
from stages.networks.pixels import to_input
from stages.runtime.config import PARAMS
from stages.runtime.errors import UserError
from stages.runtime.splits import Split

BATCH_SIZE = 250  # bounds memory only
# The library is imported while the file is still being written. Then images come by the pipe, as bytes.
PROGRAM = """import gc
gc.disable()  # it would look for cycles among the objects of torch, again and again
{library}
import numpy, sys
sys.stdin.buffer.read(1)
{usage}
outputs = []
while content := sys.stdin.buffer.read({bytes}):
    images = numpy.frombuffer(bytearray(content), "float32").reshape({shape})
    outputs.append(classify(images))
numpy.save({output!r}, numpy.concatenate(outputs))
gc.freeze()  # else Python would look for cycles among all of torch's objects as it ends
"""


class Measurement(NamedTuple):
    accuracy: float
    max_difference: float  # of a probability from the eager network's


class Verifier:
    """A process that will run a file on the test set; it can start before the file is written."""

    def __init__(self, form: Format, file: Path, test: Split, folder: Path):
        self._form, self._test = form, test
        self._log, self._output = folder / f"{form.name}.log", folder / f"{form.name}.npy"
        _, *shape = to_input(test.images[:1]).shape
        usage = form.usage(file.absolute())
        program = PROGRAM.format(
            library=usage.partition("\n")[0],
            usage=usage,
            bytes=BATCH_SIZE * math.prod(shape) * 4,
            shape=(-1, *shape),
            output=str(self._output),
        )
        with self._log.open("w") as log:
            # -I: neither this folder nor the user's own packages can be imported.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", program], stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def measure(self, expected: torch.Tensor) -> Measurement:
        """Run the file, which is complete now.

        `expected` are the eager network's probabilities, float32 [N, classes].

        Raises:
            UserError: the file cannot be loaded or run.
        """
        probabilities = self.probabilities()
        difference = (probabilities - expected).abs().max().item()
        return Measurement(accuracy(probabilities, self._test.labels), difference)

    def probabilities(self) -> torch.Tensor:
        """Return the file's probabilities for the test set, float32 [N, classes].

        Raises:
            UserError: the file cannot be loaded or run.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process:  # it has ended, and its log has the reason
            self._process.stdin.write(b"!")
            for batch in self._test.images.split(BATCH_SIZE):
                self._process.stdin.write(to_input(batch).numpy())
        if self._process.returncode:
            lines = self._log.read_text().splitlines()
            reason = (lines or [f"exit code {self._process.returncode}"])[-1]
            raise UserError(f"{self._form.file}: does not run ({reason}); not exported")
        return torch.from_numpy(np.load(self._output))

    def stop(self) -> None:
        """End the process, if it still runs."""
        self._process.kill()
        self._process.communicate()


def check(
    form: Format, result: Measurement, expected_accuracy: float, params: ExportParams
) -> None:
    """Refuse an exported model that does not agree with the eager one.

    Raises:
        UserError: a probability is off by more than `params.tolerance`, or the accuracy is another
            one; of an inexact format, the accuracy is lower by more than `params.max_accuracy_drop`.
    """
    drop = expected_accuracy - result.accuracy
    if not form.exact:
        if not drop <= params.max_accuracy_drop:
            raise UserError(
                f"{form.file}: test accuracy {result.accuracy} is {drop:.4f} below the eager "
                f"network's, {PARAMS}: export.max_accuracy_drop allows {params.max_accuracy_drop}; not "
                "exported"
            )
        return
    if not result.max_difference <= params.tolerance:  # "not <=" refuses nan too
        raise UserError(
            f"{form.file}: a probability is {result.max_difference:.1e} from the eager network's, "
            f"{PARAMS}: export.tolerance allows {params.tolerance:.1e}; not exported"
        )
    if drop:
        raise UserError(
            f"{form.file}: test accuracy {result.accuracy} is not the eager network's "
            f"{expected_accuracy}; not exported"
        )
