"""Check all of params.yaml and the files of the data set: `python -m tools.check`.

Each stage checks its own sections. A slip in `export:` would surface after an hour of training. DVC
reads the data before any stage: it waits for a pipe, and a name that is not UTF-8 is a traceback.
"""

import re
from pathlib import Path

from stages.datasets.description import DATA, FolderDescription, read_description
from stages.datasets.folder import list_pictures
from stages.datasets.params import PrepareParams
from stages.exporting.params import ExportParams
from stages.reporting.params import EvaluateParams
from stages.runtime.config import PARAMS, Section, read_checked, shown
from stages.runtime.errors import UserError, run_command
from stages.training.recipe import Recipe, TrainParams, check_choice


class Params(Section):
    prepare: PrepareParams
    train: TrainParams
    recipes: dict[str, Recipe]
    evaluate: EvaluateParams
    export: ExportParams


def main() -> None:
    if re.search("[{}]", place := str(Path.cwd())):
        raise UserError(f"{place}: DVC fails in a folder whose path has {{ or }}; rename it")
    params = read_checked(PARAMS, Params)
    check_choice(params.train.recipe, params.recipes)
    check_dataset(DATA, params.prepare.dataset)
    check_weights(Path(params.train.initial_weights))
    if isinstance(read_description(params.prepare.dataset), FolderDescription):
        list_pictures(params.prepare.dataset)


def check_dataset(folder: Path, name: str) -> None:
    """Refuse the name of a data set that has no folder: DVC would name only the missing folder.

    Raises:
        UserError: it has none.
    """
    if not (folder / name).is_dir():
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        known = ", ".join(known for known in names if known != "prepared")
        raise UserError(
            f"{PARAMS}: prepare.dataset: {shown(name)} is not allowed: no such folder in {folder}/; "
            f"use {known}, or add the folder"
        )


def check_weights(path: Path) -> None:
    """Refuse a file of initial weights that does not exist: DVC would say only that it is missing.

    Raises:
        UserError: neither the file exists nor what DVC knows of it.
    """
    if not (path.is_file() or Path(f"{path}.dvc").is_file()):
        known = sorted({str(known).removesuffix(".dvc") for known in path.parent.glob("[!.]*")})
        raise UserError(
            f"{PARAMS}: train.initial_weights: {shown(str(path))} is not allowed: no such file; use "
            f"{', '.join(known)}, or add the file"
        )


if __name__ == "__main__":
    run_command(main)
