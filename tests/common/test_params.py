from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from stages import evaluate, export, prepare, train
from stages.common.errors import UserError
from stages.common.params import load_params
from stages.network.networks import ACTIVATIONS, build
from tests.pipeline.torture import contents
from tests.project import Project, change, executed
from tests.samples import run_stage


def test_the_defaults_are_the_tutorials(params_file: Path):
    params = load_params()
    assert params.prepare.dataset == "mnist"
    assert params.prepare.validation_size == 0.1
    assert params.train.recipe == "tutorial"
    recipe = params.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (10, 32, 1e-3)
    network = build(recipe.architecture, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 102_762


@pytest.mark.parametrize("spelling", ["1e-3", "1.0e-3", "0.001", "1E-3", "+1e-3"])
def test_spellings_of_a_number_mean_the_same(params_file: Path, spelling: str):
    change(params_file, "learning_rate: 1.0e-3", f"learning_rate: {spelling}")
    assert load_params().recipe.learning_rate == 0.001


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "epochs: 10",
            "epoch: 10",
            "recipes.tutorial.epoch: unknown key; allowed are epochs, batch_size",
        ),
        (
            "export:",
            "exports:",
            "exports: unknown key; allowed are prepare, train, recipes, evaluate, export",
        ),
        ("    epochs: 10\n", "", "recipes.tutorial.epochs: missing"),
        (
            "epochs: 10",
            "epochs: 0",
            "recipes.tutorial.epochs: 0 is not allowed: input should be greater than",
        ),
        (
            "epochs: 10",
            "epochs: 2.5",
            "recipes.tutorial.epochs: 2.5 is not allowed: input should be a valid int",
        ),
        (
            "epochs: 10",
            "epochs: '10'",
            "recipes.tutorial.epochs: '10' is not allowed: input should be a valid",
        ),
        ("epochs: 10", "epochs: true", "recipes.tutorial.epochs: True is not allowed"),
        ("epochs: 10", "epochs:", "recipes.tutorial.epochs: None is not allowed"),
        (
            "1.0e-3",
            "fast",
            "recipes.tutorial.learning_rate: 'fast' is not allowed: input should be a valid num",
        ),
        (
            "1.0e-3",
            ".nan",
            "recipes.tutorial.learning_rate: nan is not allowed: input should be a finite",
        ),
        (
            "1.0e-3",
            "-1",
            "recipes.tutorial.learning_rate: -1 is not allowed: input should be greater than 0",
        ),
        (
            "dropout: 0.2",
            "dropout: 1.0",
            "recipes.tutorial.dropout: 1.0 is not allowed: input should be less",
        ),
        (
            "- sigmoid",
            "- step",
            "recipes.tutorial.activations.1: 'step' is not allowed: input should be 'tanh'",
        ),
        ("    - sigmoid\n", "", "recipes.tutorial.hidden_sizes has 2 layers but activations has 1"),
        *(
            (
                "dataset: mnist",
                f"dataset: {name}",
                f"prepare.dataset: {name!r} is not allowed: use the plain name of a folder in data/",
            )
            for name in ("prepared", "../data", "a/b", "/tmp", "..", "größer", "a b", "-x")
        ),
        *(
            (
                f"{key}: {value}",
                f"{key}: {other}",
                f"prepare.{key}: {other} is not allowed: use a number of pictures (5000) or a sh",
            )
            for key, value in (("validation_size", "0.1 "), ("test_share", " "))
            for other in ("1.0", "-1", "1.5", "-0.1", "99999999999")
        ),
        (
            "layout:  ",
            "layout: centred",
            "prepare.layout: 'centred' is not allowed: input should be 'mnist' or 'resize'",
        ),
        (
            "skip_unreadable:  ",
            "skip_unreadable: 1",
            "prepare.skip_unreadable: 1 is not allowed: input should be a valid boolean",
        ),
        (
            "device: cpu             #",
            "device: tpu             #",
            "train.device: 'tpu' is not allowed: input should be 'auto'",
        ),
        (
            "recipe: tutorial",
            "recipe: slow",
            "train.recipe: 'slow' is not one of the recipes; choose tutorial, fast, convolutional, "
            "thorough, or add it below `recipes:`",
        ),
        (
            "  seed: 0                 # draws initial",
            "  epochs: 3\n  seed: 0  # draws initial",
            "train.epochs: unknown key; allowed are recipe, seed, device (it belongs to a recipe: "
            "recipes.tutorial.epochs)",
        ),
        (
            "  recipe: tutorial ",
            "  shards: 3\n  recipes: tutorial ",
            "train.shards: unknown key; allowed are recipe, seed, device (it belongs to a recipe: "
            "recipes.NAME.shards)",
        ),
        ("  fast: ", "  fa.st: ", "recipes: 'fa.st' is not allowed: string should match pattern"),
        (
            "  fast:                   # a smaller network, in a second: for trying things out\n"
            "    network: feed_forward\n",
            "  fast:\n",
            "recipes.fast.network: None is not allowed: use feed_forward or convolutional",
        ),
        (
            "  convolutional:          # more accurate, in about the time of the tutorial's own code\n"
            "    network: convolutional\n",
            "  convolutional:\n    network: recurrent\n",
            "recipes.convolutional.network: 'recurrent' is not allowed: use feed_forward or conv",
        ),
        ("epochs: 10\n", "epochs: 1_000\n", "recipes.tutorial.epochs: '1_000' is not allowed"),
        ("epochs: 10\n", "epochs: 0b1\n", "recipes.tutorial.epochs: '0b1' is not allowed"),
        ("epochs: 10\n", "epochs: 2026-01-01\n", "recipes.tutorial.epochs: '2026-01-01' is not al"),
        (
            "shards: 2             # each",
            "shards: 33  # each",
            "recipes.convolutional.batch_size: 64 is too small for 33 shards",
        ),
        (
            "    - 5\n    - 5\n    - 3\n",
            "    - 5\n",
            "recipes.convolutional.channels, kernel_sizes and pool_sizes",
        ),
        (
            "    - 5\n    - 5\n    - 3\n",
            "    - 5\n    - 5\n    - 9\n",
            "recipes.convolutional.kernel_sizes: [5, 5, 9] with pool_sizes [2, 2, 1] leave nothing",
        ),
        ("tolerance: 1.0e-5", "tolerance: 0", "export.tolerance: 0 is not allowed"),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(
    params_file: Path, old: str, new: str, line: str, explained: Callable[[str], None]
):
    change(params_file, old, new)
    with pytest.raises(UserError) as caught:
        load_params()
    message = str(caught.value)
    assert f"params.yaml: {line}" in message
    assert "\n" not in message
    if "train.recipe" in line:
        explained(f"error: {message}")


def test_all_bad_values_are_named_at_once(params_file: Path):
    change(params_file, "epochs: 10", "epochs: 0")
    change(params_file, "tolerance: 1.0e-5", "tolerance: -1")
    with pytest.raises(
        UserError, match=r"recipes\.tutorial\.epochs: 0 .*; params\.yaml: export\.tolerance: -1 "
    ):
        load_params()


@pytest.mark.parametrize("text", ["a: [1", "", "- 1", "\tx: 1", "a: " + "9" * 5000])
def test_a_file_that_holds_no_sections_is_one_line(params_file: Path, text: str):
    params_file.write_text(text)
    with pytest.raises(UserError, match=r"^params\.yaml: [^\n]+$"):
        load_params()


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("export:\n", "evaluate:\n", "evaluate"),
        ("  fast: ", "  tutorial: ", "tutorial"),
        ("epochs: 10\n", "epochs: 10\n    epochs: 4\n", "epochs"),
    ],
)
def test_a_key_may_stand_only_once(params_file: Path, old: str, new: str, key: str):
    change(params_file, old, new)
    with pytest.raises(
        UserError,
        match=rf"^params\.yaml: not valid YAML: [^\n]* duplicate key [^\n]* {key}:[^\n]*$",
    ):
        load_params()


def test_a_missing_file_is_one_line(in_empty_folder: Path):
    with pytest.raises(UserError, match=r"^params\.yaml: no such file"):
        load_params()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "gelu"])
def test_every_allowed_activation_can_be_built(params_file: Path, activation: str):
    change(params_file, "- sigmoid", f"- {activation}")
    network = build(load_params().recipe.architecture, 10)
    assert isinstance(network[5], ACTIVATIONS[activation])


@pytest.mark.parametrize("stage", [prepare, train, evaluate, export])
def test_a_stage_refuses_a_slip_in_any_section_before_any_work(
    params_file: Path, stage: ModuleType
):
    change(params_file, "tolerance: 1.0e-5", "tolerance: high")
    with pytest.raises(UserError, match=r"export\.tolerance: 'high' is not allowed"):
        run_stage(stage.main)
    assert sorted(Path().iterdir()) == [Path("data"), Path("params.yaml")]
    assert not Path("data/prepared").exists()


def test_a_user_sees_one_line_and_no_traceback(project: Project):
    project.edit("params.yaml", "tolerance: 1.0e-5", "tolerance: high")
    output = project.run("python", "-m", "stages.evaluate", fails=True)
    assert output == (
        "error: params.yaml: export.tolerance: 'high' is not allowed: "
        "input should be a valid number\n"
    )
    assert project.git_status() == " M params.yaml\n"


def test_what_dvc_refuses_first_changes_nothing(project: Project, explained: Callable[[str], None]):
    params = project.folder / "params.yaml"
    (project.folder / "models/model_weights.pth").write_text("earlier")
    text, before = params.read_text(), contents(project)
    faults = {
        "a key twice": text.replace("epochs: 10\n", "epochs: 10\n    epochs: 4\n"),
        "a tab": text.replace("  recipe: tutorial", "\trecipe: tutorial"),
        "no UTF-8": text.replace("dataset: mnist ", "dataset: größer "),
        "nothing": "",
        "a list": "- prepare\n",
        "5,000 lists": f"{text}more: {'[' * 5000}{']' * 5000}\n",
        "5,000 digits": text.replace("epochs: 10\n", f"epochs: {'9' * 5000}\n"),
    }
    outputs = []
    for name, content in faults.items():
        assert content != text
        params.write_text(content, encoding="latin-1" if name == "no UTF-8" else "utf-8")
        outputs.append(project.run("dvc", "repro", fails=True))
        assert executed(outputs[-1]) == [], name
    explained("".join(outputs))
    params.write_text(text)
    assert contents(project) == before
    assert project.git_status() == ""


def test_a_recipe_of_your_own_needs_no_code(params_file: Path):
    change(params_file, "recipe: tutorial", "recipe: tiny-1")
    change(
        params_file,
        "recipes:\n",
        """recipes:
  tiny-1:
    network: feed_forward
    hidden_sizes: []
    activations: []
    dropout: 0.0
    epochs: 1
    batch_size: 100
    learning_rate: 0.01
    shards: 1

""",
    )
    recipe = load_params().recipe
    assert (recipe.batch_size, recipe.learning_rate) == (100, 0.01)
    assert recipe.architecture == {
        "network": "feed_forward",
        "hidden_sizes": [],
        "activations": [],
        "dropout": 0.0,
    }
