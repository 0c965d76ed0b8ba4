"""Check all of params.yaml, as the stages would one after the other: `python -m tools.check`.

Each stage checks its own sections. A slip in `export:` would surface after an hour of training.
"""

from stages.datasets.params import PrepareParams
from stages.exporting.params import ExportParams
from stages.reporting.params import EvaluateParams
from stages.runtime.config import PARAMS, Section, read_checked
from stages.runtime.errors import run_command
from stages.training.recipe import Recipe, TrainParams, check_choice


class Params(Section):
    prepare: PrepareParams
    train: TrainParams
    recipes: dict[str, Recipe]
    evaluate: EvaluateParams
    export: ExportParams


def main() -> None:
    params = read_checked(PARAMS, Params)
    check_choice(params.train.recipe, params.recipes)


if __name__ == "__main__":
    run_command(main)
