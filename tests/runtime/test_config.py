"""params.yaml is read and checked; each mistake is one line that names the key."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from dvc.utils.serialize import load_yaml

from stages import evaluate, export, prepare, train
from stages.networks.registry import build
from stages.runtime.config import PARAMS, read_checked, read_yaml
from stages.runtime.errors import UserError
from tests.pipeline.torture import contents
from tests.project import Project, change, default_params, executed
from tests.samples import RECIPES, run_stage, set_value
from tools import check

TEXT = default_params()
IN_QUOTES = "is not allowed: a number, a truth value or a date, in YAML; put it into quotes"


def load() -> check.Params:
    check.main()
    return read_checked(PARAMS, check.Params)


def edit(key: str, value: object) -> None:
    """Write params.yaml with another value."""
    params = yaml.safe_load(PARAMS.read_text())
    set_value(params, key, value)
    PARAMS.write_text(yaml.safe_dump(params, sort_keys=False))


def test_the_defaults_are_the_tutorials(params_file: Path):
    params = load()
    assert params.prepare.dataset == "mnist"
    assert params.prepare.validation_size == 0.1
    recipe = params.recipes[params.train.recipe]
    assert params.train.recipe == "tutorial"
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer.learning_rate) == (10, 32, 1e-3)
    network = build(recipe.network, (1, 28, 28), 10)
    assert sum(weights.numel() for weights in network.parameters()) == 102_762


@pytest.mark.parametrize("spelling", ["1e-3", "1.0e-3", "0.001", "1E-3", "+1e-3"])
def test_spellings_of_a_number_mean_the_same(params_file: Path, spelling: str):
    change(params_file, "learning_rate: 1.0e-3", f"learning_rate: {spelling}")
    assert load().recipes["tutorial"].optimizer.learning_rate == 0.001


@pytest.mark.parametrize(
    "text",
    ["2024_01", "1_000", "0b11", "012", "0o12", "1e3", "1:30", "on", "2026-01-01", "'012'", "~"],
)
def test_a_value_is_what_dvc_records(params_file: Path, text: str):
    """DVC fills in dvc.yaml by its own reading: the data set was data/202401 to it, 2024_01 to us."""
    params_file.write_text(f"base: &base {{seed: 1}}\nprepare:\n  <<: *base\n  dataset: {text}\n")
    assert read_yaml(params_file) == load_yaml(params_file)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("recipes.tutorial.epochs", 0, "input should be greater than"),
        ("recipes.tutorial.epochs", 2.5, "input should be a valid int"),
        ("recipes.tutorial.epochs", "10", "input should be a valid int"),
        ("recipes.tutorial.epochs", True, "input should be a valid int"),
        ("recipes.tutorial.epochs", None, "input should be a valid int"),
        ("recipes.tutorial.optimizer.learning_rate", "fast", "input should be a valid num"),
        ("recipes.tutorial.optimizer.learning_rate", float("nan"), "input should be a finite"),
        ("recipes.tutorial.optimizer.learning_rate", -1, "input should be greater than 0"),
        ("recipes.tutorial.network.dropout", 1.0, "input should be less"),
        ("recipes.tutorial.network.activations.1", "step", "input should be 'tanh', 'sig"),
        ("recipes.tutorial.network.kind", "unknown", "use 'feed_forward', 'convolutional'"),
        ("recipes.tutorial.optimizer.kind", None, "use 'adam', 'adamw', 'sgd'"),
        ("recipes.convolutional.augmentation.0.scaling", 1.0, "input should be less than 1"),
        ("recipes.convolutional.augmentation.0.kind", "unknown", "use 'affine', 'elastic'"),
        ("recipes.convolutional.optimizer.schedule.kind", "unknown", "use 'constant', 'linear'"),
        ("recipes.convolutional.loss.label_smoothing", -0.1, "input should be greater than"),
        ("recipes.fast", [], "use a section, with its keys below it"),
        ("recipes.fast.network", "feed_forward", "use a section, with its keys below it"),
        ("prepare.dataset", "../data", "use the plain name of a folder in data/"),
        ("prepare.dataset", "größer", "use the plain name of a folder in data/"),
        ("prepare.dataset", "x" * 999 + "/", "use the plain name of a folder in data/"),
        ("prepare.validation_size", 1.0, "use a number of pictures (5000) or a share of them"),
        ("prepare.test_share", -1, "use a number of pictures (5000) or a share of them"),
        ("prepare.layout", "centred", "input should be 'drawing' or 'photo'"),
        ("prepare.skip_unreadable", 1, "input should be a valid boolean"),
        ("train.device", "tpu", "input should be 'auto', 'cpu'"),
        ("export.tolerance", 0, "input should be greater than 0"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(
    params_file: Path, key: str, value: object, reason: str
):
    edit(key, value)
    with pytest.raises(UserError) as caught:
        load()
    shown = repr(value) if len(repr(value)) < 100 else f"{'x' * 149} … {'x' * 38}/'"
    assert str(caught.value).endswith(reason) or f" is not allowed: {reason}" in str(caught.value)
    assert str(caught.value).startswith(f"params.yaml: {key}: ")
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("epochs: 10", "epoch: 10", "recipes.tutorial.epoch: unknown key; allowed are network, op"),
        ("export:", "exports:", "exports: unknown key; allowed are prepare, train, recipes, eval"),
        ("    epochs: 10\n", "", "recipes.tutorial.epochs: missing; add it"),
        ("      kind: adam  ", "      #", "recipes.tutorial.optimizer.kind: missing; add it"),
        ("epochs: 10\n", "epochs: 1:00\n", "recipes.tutorial.epochs: '1:00' is not allowed"),
        ("epochs: 10\n", "epochs: 2026-01-01\n", "recipes.tutorial.epochs: 2026-01-01 is not"),
        ("epochs: 10\n", "epochs: 2026-13-01\n", "not valid YAML: month must be in 1..12"),
        ("epochs: 10\n", "epochs: !!int x\n", "not valid YAML: invalid literal for int() with"),
        ("epochs: 10\n", f"epochs: {'[' * 999}\n", "not valid YAML: "),
        ("dataset: mnist  ", "dataset: 2024_01", f"prepare.dataset: 202401 {IN_QUOTES}"),
        ("dataset: mnist  ", "dataset: 0b11", f"prepare.dataset: 3 {IN_QUOTES}"),
        ("dataset: mnist  ", "dataset: 2024-01-01", f"prepare.dataset: 2024-01-01 {IN_QUOTES}"),
        ("      - sigmoid\n", "", "recipes.tutorial.network.hidden_sizes: 2 layers, but acti"),
        ("      - 5\n      - 5\n", "", "recipes.quick.network.channels: 3 layers, but"),
        ("export:\n", '"a\\nb": 1\nexport:\n', "a\\nb: unknown key"),
        (
            "  seed: 0                 # draws initial",
            "  epochs: 3  #",
            "train.epochs: unknown key; allowed are recipe, seed, device, initial_weights (a recipe's "
            "own are below recipes.NAME)",
        ),
        (
            "recipe: tutorial",
            "recipe: slow",
            f"train.recipe: 'slow' is not one of the recipes; choose {', '.join(RECIPES)}, or add it "
            "below `recipes:`",
        ),
    ],
)
def test_an_unknown_missing_or_unfitting_key_is_named(
    params_file: Path, old: str, new: str, line: str, explained: Callable[[str], None]
):
    change(params_file, old, new)
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith(f"params.yaml: {line}")
    if "train.recipe" in line:
        explained(f"error: {message}")


def test_several_mistakes_are_one_line(params_file: Path):
    edit("recipes.tutorial.epochs", 0)
    edit("export.tolerance", -1)
    with pytest.raises(
        UserError, match=r": recipes\.tutorial\.epochs: 0 .*; export\.tolerance: -1"
    ):
        load()
    for recipe in RECIPES:
        edit(f"recipes.{recipe}.epochs", 0)
        edit(f"recipes.{recipe}.batch_size", 0)
    more = 2 * len(RECIPES) + 1 - 5
    with pytest.raises(UserError, match=rf"^params\.yaml: [^\n]+; and {more} more$"):
        load()


def test_a_password_in_a_url_is_not_shown(params_file: Path):
    edit("prepare.dataset", "https://bob:secret@host/set?token=secret")
    with pytest.raises(UserError, match=r"'https://host/set\?…") as caught:
        load()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [1", "", "- 1", "\tx: 1", "null", "prepare: []\n"])
def test_a_file_without_sections_is_one_line(params_file: Path, text: str):
    params_file.write_text(text)
    with pytest.raises(UserError, match=r"^params\.yaml: [^\n]+$"):
        load()


@pytest.mark.parametrize(
    ("old", "new"), [("export:\n", "evaluate:\n"), ("epochs: 10\n", "epochs: 10\n    epochs: 4\n")]
)
def test_a_key_may_occur_only_once(params_file: Path, old: str, new: str):
    change(params_file, old, new)
    with pytest.raises(
        UserError, match=r"^params\.yaml: not valid YAML: line \d+, [^\n]* duplicate key [^\n]*$"
    ):
        load()


def test_a_missing_file_is_one_line(in_empty_folder: Path):
    with pytest.raises(UserError, match=r"^params\.yaml: no such file"):
        load()


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        (prepare, "prepare.seed"),
        (train, "train.seed"),
        (train, "recipes.tutorial.optimizer.learning_rate"),
        (evaluate, "evaluate.batch_size"),
        (export, "export.tolerance"),
    ],
)
def test_a_stage_refuses_a_mistake_in_its_sections_before_any_work(
    params_file: Path, stage: ModuleType, key: str
):
    edit(key, "high")
    with pytest.raises(UserError, match=rf"^params\.yaml: {key}: 'high' is not allowed: "):
        run_stage(stage.main)
    assert sorted(Path().iterdir()) == [Path("data"), PARAMS, Path("weights")]
    assert not Path("data/prepared").exists()


def test_a_user_sees_one_line_and_no_traceback(project: Project):
    project.edit("params.yaml", "tolerance: 1.0e-5", "tolerance: high")
    line = (
        "error: params.yaml: export.tolerance: 'high' is not allowed: "
        "input should be a valid number\n"
    )
    for module in ("stages.export", "tools.check"):
        assert project.run("python", "-m", module, fails=True) == line
    assert project.git_status() == " M params.yaml\n"


def test_mistakes_that_dvc_reports_change_nothing(
    project: Project, explained: Callable[[str], None]
):
    (project.folder / "models/model_weights.pth").write_text("earlier")
    before = contents(project)
    mistakes = {
        "a key twice": TEXT.replace("epochs: 10\n", "epochs: 10\n    epochs: 4\n"),
        "a tab": TEXT.replace("  recipe: tutorial", "\trecipe: tutorial"),
        "not UTF-8": TEXT.replace("dataset: mnist ", "dataset: größer "),
        "empty": "",
        "a list": "- prepare\n",
    }
    for name, content in mistakes.items():
        encoding = "latin-1" if name == "not UTF-8" else "utf-8"
        (project.folder / PARAMS).write_text(content, encoding=encoding)
        output = project.run("dvc", "repro", fails=True)
        assert executed(output) == [], name
        explained(output)
    (project.folder / PARAMS).write_text(TEXT)
    assert contents(project) == before
    assert project.git_status() == ""


def test_a_recipe_of_your_own_needs_no_code(params_file: Path):
    edit("train.recipe", "tiny-1")
    edit(
        "recipes.tiny-1",
        {
            "network": RECIPES["tutorial"]["network"] | {"hidden_sizes": [], "activations": []},
            "optimizer": {"kind": "adam", "learning_rate": 0.01},
            "augmentation": [{"kind": "elastic", "displacement": 1.0}],
            "epochs": 1,
            "batch_size": 100,
            "shards": 1,
        },
    )
    recipe = load().recipes["tiny-1"]
    assert (recipe.network.hidden_sizes, recipe.augmentation[0].displacement) == ([], 1.0)
