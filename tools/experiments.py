"""List the experiments by accuracy, with the parameters that differ, on a screen of 80 columns.

`dvc exp show` has a column for each metric and file, and the whole names of parameters.
"""

import csv
import subprocess
import sys

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from stages.runtime.config import PARAMS, read_yaml
from stages.runtime.inputs import leaves
from tools.output import run_tool

COLUMNS = 80
COMMAND = "dvc exp show --csv --hide-workspace --hide-queued"


def endings(names: list[str]) -> list[str]:
    """Return each name's shortest ending, after a dot, that no other name has."""
    shortest = []
    for name in names:
        parts = name.split(".")
        candidates = (".".join(parts[first:]) for first in range(len(parts) - 1, -1, -1))
        others = [f".{other}" for other in names if other != name]
        shortest.append(
            next(
                (end for end in candidates if not any(one.endswith(f".{end}") for one in others)),
                name,
            )
        )
    return shortest


def used(row: dict[str, str], name: str) -> str:
    """Return the value of a parameter, or nothing if it belongs to a recipe that was not trained."""
    first, *rest = name.split(".")
    other = first == "recipes" and rest[0] != row["train.recipe"]
    return "" if other else row[name]


def to_table(rows: list[dict[str, str]], known: set[str]) -> Table:
    """Return a table of DVC's rows by accuracy, with those of the known parameters that differ."""
    differing = [
        column
        for column in (rows[0] if rows else ())
        if column in known
        and len({row[column] for row in rows}) > 1
        and any(used(row, column) for row in rows)
    ]
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("experiment", overflow="fold")
    table.add_column("accuracy", no_wrap=True, justify="right")
    for title in endings(differing):
        table.add_column(title, overflow="fold")
    for row in sorted(rows, key=lambda row: -float(row["accuracy"] or 0)):
        accuracy = f"{float(row['accuracy']):.2%}" if row["accuracy"] else "failed"
        table.add_row(
            row["Experiment"] or row["rev"], accuracy, *(used(row, name) for name in differing)
        )
    return table


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(f"{__doc__}\nArguments are those of `dvc exp show`, such as --all-commits.")
    command = [*COMMAND.split(), *sys.argv[1:]]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode:
        sys.exit(f"error: {' '.join(shown.stderr.removeprefix('ERROR: ').split())}")
    rows = list(csv.DictReader(shown.stdout.splitlines()))
    known = {name.removeprefix(" ") for name, _ in leaves(" ", read_yaml(PARAMS))}
    Console(width=COLUMNS).print(to_table(rows, known))


if __name__ == "__main__":
    run_tool(main)
