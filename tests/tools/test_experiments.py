"""`make experiments`; tests/test_docs.py runs it on real experiments."""

import io

from rich.console import Console

from tools.experiments import COLUMNS, endings, to_table

LONG = "recipes.fast.optimizer.schedule.warmup"


def test_parameters_have_their_shortest_names_that_differ():
    names = ["train.seed", "prepare.seed", LONG, "recipes.a.epochs", "recipes.b.epochs", "seed"]
    assert endings(names) == [
        "train.seed",
        "prepare.seed",
        "warmup",
        "a.epochs",
        "b.epochs",
        "seed",
    ]


def test_the_table_fits_a_screen_and_shows_every_value():
    parameters = [LONG, *(f"recipes.fast.network.parameter_{number}" for number in range(6))]
    one, other = (
        {name: f"{value} {number}" for number, name in enumerate(parameters)}
        for value in ("value", "other")
    )
    alike = {"train.recipe": "fast", "train.seed": "0", "loss": "0.5"}
    rows = [
        alike | one | {"Experiment": "", "rev": "main", "accuracy": "0.9735"},
        alike | one | {"Experiment": "it-failed", "rev": "1234567", "accuracy": ""},
        alike | other | {"Experiment": "a-long-name", "rev": "1234567", "accuracy": "0.98"},
    ]
    console = Console(width=COLUMNS, record=True, file=io.StringIO())
    console.print(to_table(rows, {"train.seed", *parameters}))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= COLUMNS
    letters = "".join(text.split())
    assert letters.index("98.00%") < letters.index("97.35%") < letters.index("failed")
    assert "warmup" in letters and "seed" not in letters and "loss" not in letters


def test_parameters_of_other_recipes_are_not_shown():
    alike = {"rev": "1234567", "accuracy": "0.9"}
    fast, wide = "recipes.fast.epochs", "recipes.wide.width"
    rows = [
        alike | {"Experiment": "one", "train.recipe": "fast", fast: "30", wide: "7"},
        alike | {"Experiment": "two", "train.recipe": "tutorial", fast: "2", wide: "8"},
    ]
    table = to_table(rows, {"train.recipe", fast, wide})
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["epochs"] == ["30", ""]
    assert "width" not in cells
