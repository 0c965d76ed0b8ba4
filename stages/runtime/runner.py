"""Runs a stage: `python -m stages.NAME` begins with `run`, which calls the stage's `main`.

DVC computes the checksums of a stage's code, parameters and data after the stage ran, and records the
result under them. An edit during the run would be recorded as if it had been used, and the run-cache
would hand the wrong result to everybody. So the runner takes digests of all inputs before it imports
the stage, and compares them before the outputs get their names; the training does so after each epoch,
too. A gap remains between DVC's start of the stage and the first digest, and between the last digest
and DVC's own.
"""

# Only modules that load in a moment: until `run` has begun, Ctrl-C would print a traceback.
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages import COMMON_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from stages.runtime.config import Schema
    from stages.runtime.outputs import Outputs

DVC_STAGE = "DVC_STAGE"  # a variable that DVC sets for its stages
PINS = "stages/requirements.txt"


@dataclass(frozen=True)
class Run:
    """What a stage's `main` gets: its inputs as they were digested, and where its outputs go."""

    params: object  # the content of params.yaml
    fingerprint: dict[str, str]  # everything that the result depends on, by name
    check_inputs: "Callable[[], None]"  # quick; raises UserError if an input has changed since
    outputs: "Outputs"

    def section(self, key: str, schema: "type[Schema]") -> "Schema":
        """Return a section of params.yaml, such as "prepare" or "recipes.fast".

        Raises:
            UserError: it is missing, or a value is not allowed.
        """
        from stages.runtime.config import section

        return section(self.params, key, schema)


def run(module: str) -> None:
    """Run the `main` of a stage, for example of "stages.train", and end the process."""
    # While the stage imports its libraries there is nothing to clean up, and a KeyboardInterrupt
    # could be caught, or printed, by any of them.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as after `nohup`
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from stages.runtime.errors import run_command

    try:
        run_command(lambda: _run(module))
    finally:
        # From here on, the handler would raise SystemExit within torch's atexit functions.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(0)


def _run(module: str) -> None:
    check_packages()
    if not COMMON_BYTES:
        print(
            "note: this is no x86-64 processor with AVX2 under Linux, so the last digits of the "
            "results may differ (docs/reproducibility.md)"
        )
    import importlib

    # These import packages, which are checked now.
    from stages.runtime.inputs import Inputs
    from stages.runtime.outputs import all_or_none
    from stages.runtime.processes import Lock, end_with_parent, is_child

    if is_child() or DVC_STAGE in os.environ:  # by hand, a stage may outlive its shell
        end_with_parent()
    Lock.acquire()
    inputs = Inputs(module.rpartition(".")[2])
    remove_bytecode()
    main = importlib.import_module(module).main
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # cleans up, too
    with all_or_none() as outputs:
        main(Run(inputs.params, inputs.fingerprint, lambda: inputs.check(quick=True), outputs))
        inputs.check()


def remove_bytecode() -> None:
    """Make Python read the sources whose digests were taken.

    Python trusts a .pyc whose size and mtime match, the mtime in whole seconds: an edit within the same
    second could run as the old code and be recorded as the new.
    """
    import shutil

    for folder, names, _ in os.walk("stages"):
        if "__pycache__" in names:
            shutil.rmtree(os.path.join(folder, "__pycache__"), ignore_errors=True)  # noqa: PTH118


def check_packages() -> None:
    """Refuse packages other than the pinned ones.

    DVC records a stage's results under the checksum of the pins, so a stage must not run with other
    packages, as it would with `.venv/bin/dvc repro` outside the environment.

    Raises:
        UserError: a pinned package is missing or has another version.
    """
    from importlib.metadata import PackageNotFoundError, version

    from stages.runtime.errors import UserError

    with open(PINS, encoding="utf-8") as file:  # noqa: PTH123  pathlib takes its time to load
        lines = file.read().splitlines()
    for line in lines:
        name, _, pinned = line.partition("#")[0].strip().partition("==")
        if not name:
            continue
        try:
            installed = version(name).partition("+")[0]  # 2.13.0+cpu is a build of 2.13.0
        except PackageNotFoundError:
            installed = "not installed"
        if installed != pinned:
            raise UserError(
                f"{PINS}: {name}=={pinned}, but in {sys.executable} it is {installed}; activate "
                "the environment with `source .venv/bin/activate` (`make install` makes it)"
            )
