"""What more than one stage needs; each module is named after the one thing it knows.

Importing it first checks that the installed packages are those that requirements.txt pins. DVC files
the results of a stage under that file's checksum, so a stage must not run with other packages, as it
would with `.venv/bin/dvc repro` outside the environment.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PINS = Path(__file__).parents[2] / "requirements.txt"


def check_packages() -> None:
    """End the process with one line and exit code 1 if a pinned package is not the installed one."""
    for line in PINS.read_text().splitlines():
        name, _, pinned = line.partition("#")[0].strip().partition("==")
        if not name:
            continue
        try:
            installed = version(name).partition("+")[0]  # 2.13.0+cpu is a build of 2.13.0
        except PackageNotFoundError:
            installed = "not installed"
        if installed != pinned:
            sys.exit(
                f"error: requirements.txt: {name}=={pinned}, but in {sys.executable} it is "
                f"{installed}; activate the environment with `source .venv/bin/activate` "
                "(`make install` makes it)"
            )


check_packages()
