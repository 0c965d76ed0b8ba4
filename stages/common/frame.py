"""The frame around every stage.

DVC computes the checksums of a stage's code, parameters and data after the stage ran, and files the
result under them. What is edited while the stage runs would be recorded as if it had been used, and
the run-cache would hand the wrong result to everybody. So the frame takes digests of all of it before
the stage itself is imported and reads anything, and compares them before the outputs get their names;
the training does so after each epoch, too. What is left of the hole are the moments between DVC's start
of the stage and our first look, and between our last look and DVC's.

A stage's file begins with this, before its other imports, so that they are framed as well:

    if __name__ == "__main__":
        from stages.common.frame import run

        run("stages.train")
"""

# Only what is loaded in a moment: until `run` has begun, Ctrl-C would print a traceback.
import os
import signal
import sys

from stages import COMMON_BYTES

DVC_STAGE = "DVC_STAGE"  # a variable that DVC sets for its stages
PINS = "stages/requirements.txt"


def run(module: str) -> None:
    """Run the `main` of a stage, for example of "stages.train", and end the process."""
    # While the stage imports its libraries there is nothing to clean up, and a KeyboardInterrupt
    # could be caught, or printed, by any of them.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as after `nohup`
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from stages.common import errors

    errors.run(lambda: _run(module))
    sys.exit(0)


def _run(module: str) -> None:
    check_packages()
    if not COMMON_BYTES:
        print(
            "note: this is no x86-64 processor with AVX2 under Linux, so the last digits of the "
            "results may differ (docs/reproducibility.md)"
        )
    import importlib

    from stages.common.params import load_params
    from stages.common.processes import Alone, end_with_parent, is_child
    from stages.common.stage import Inputs, run_main  # they need packages, which are checked now

    if is_child() or DVC_STAGE in os.environ:  # else it may outlive its shell
        end_with_parent()
    load_params()  # a slip in them ends here, before `Inputs` would take them for what they should be
    Alone.hold()
    inputs = Inputs(module.rpartition(".")[2])
    forget_bytecode()
    main = importlib.import_module(module).main
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # cleans up, too
    run_main(main, inputs)


def forget_bytecode() -> None:
    """Let Python read the sources whose digests were taken.

    It takes a .pyc file for that of its source if size and time agree, the time in whole seconds: an
    edit within the same second could run as the old code and be filed as the new.
    """
    import shutil

    for folder, names, _ in os.walk("stages"):
        if "__pycache__" in names:
            shutil.rmtree(os.path.join(folder, "__pycache__"), ignore_errors=True)  # noqa: PTH118


def check_packages() -> None:
    """Refuse other packages than those that the stages' pins name.

    DVC files the results of a stage under the checksum of the pins, so a stage must not run with
    others, as it would with `.venv/bin/dvc repro` outside the environment.

    Raises:
        UserError: a pinned package is missing or has another version.
    """
    from importlib.metadata import PackageNotFoundError, version

    from stages.common.errors import UserError

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
