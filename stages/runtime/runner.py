"""Runs a stage: `python -m stages.NAME` begins with `run`, which calls the stage's `main`."""

# Only modules that load in a moment: until `run` has begun, Ctrl-C would print a traceback.
import os
import signal
import sys

from stages import ARCHITECTURE

PINS = "stages/requirements.txt"


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
    if not ARCHITECTURE:
        print(
            "note: this machine is neither x86-64 with AVX2 nor Arm64 under Linux, so the last digits "
            "of the results may differ (docs/reproducibility.md)"
        )
    import gc
    import importlib

    # These import packages, which are checked now.
    from stages.runtime.inputs import Inputs
    from stages.runtime.outputs import all_or_none
    from stages.runtime.processes import DVC_STAGE, Lock, end_with_parent, is_child

    if is_child() or DVC_STAGE in os.environ:  # by hand, a stage may outlive its shell
        end_with_parent()
    Lock.acquire()
    have_git_look()
    inputs = Inputs(module.rpartition(".")[2])
    gc.disable()  # it would look for cycles among the objects of torch, again and again
    main = importlib.import_module(module).main
    gc.freeze()
    gc.enable()
    inputs.check_code()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # cleans up, too
    with all_or_none() as outputs:
        main(inputs, outputs)
        inputs.check()
        inputs.check_code()  # of modules that were imported meanwhile, too


def have_git_look() -> None:
    """Give the small files that a run changes new times, so that Git compares their content.

    `dvc exp run` leaves entries in Git's index by which a file of another content looks unchanged. They
    stay after a failure and `git commit --all` would keep the old content.
    """
    from contextlib import suppress
    from pathlib import Path

    for path in (Path("params.yaml"), Path("dvc.lock"), *Path("metrics").glob("*")):
        with suppress(OSError):  # a read-only file, or none
            os.utime(path)


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
