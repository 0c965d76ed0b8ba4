from pathlib import Path
from types import ModuleType

import evaluate
import export
import prepare
import train
from common.errors import UserError
from common.networks import ACTIVATIONS, build
from common.params import load_params

import pytest
from conftest import Project, change


def test_the_defaults_are_the_tutorials(params_file: Path):
    params = load_params()
    assert params.prepare.dataset == "mnist"
    assert params.prepare.validation_size == 5000
    train = params.train
    assert (train.epochs, train.batch_size, train.learning_rate) == (10, 32, 1e-3)
    network = build(train.description)
    assert sum(parameter.numel() for parameter in network.parameters()) == 102_762


@pytest.mark.parametrize("spelling", ["1e-3", "1.0e-3", "0.001", "1E-3", "+1e-3"])
def test_spellings_of_a_number_mean_the_same(params_file: Path, spelling: str):
    change(params_file, "learning_rate: 1.0e-3", f"learning_rate: {spelling}")
    assert load_params().train.learning_rate == 0.001


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "epochs: 10",
            "epoch: 10",
            "train.epoch: unknown key; allowed are epochs, batch_size",
        ),
        (
            "export:",
            "exports:",
            "exports: unknown key; allowed are recipe, prepare, train, fast, convolutional",
        ),
        ("  epochs: 10\n", "", "train.epochs: missing"),
        ("epochs: 10", "epochs: 0", "train.epochs: 0 is not allowed: input should be greater than"),
        (
            "epochs: 10",
            "epochs: 2.5",
            "train.epochs: 2.5 is not allowed: input should be a valid int",
        ),
        (
            "epochs: 10",
            "epochs: '10'",
            "train.epochs: '10' is not allowed: input should be a valid",
        ),
        ("epochs: 10", "epochs: true", "train.epochs: True is not allowed"),
        ("epochs: 10", "epochs:", "train.epochs: None is not allowed"),
        (
            "1.0e-3",
            "fast",
            "train.learning_rate: 'fast' is not allowed: input should be a valid num",
        ),
        ("1.0e-3", ".nan", "train.learning_rate: nan is not allowed: input should be a finite"),
        ("1.0e-3", "-1", "train.learning_rate: -1 is not allowed: input should be greater than 0"),
        ("dropout: 0.2", "dropout: 1.0", "train.dropout: 1.0 is not allowed: input should be less"),
        (
            "- sigmoid",
            "- step",
            "train.activations.1: 'step' is not allowed: input should be 'tanh'",
        ),
        ("  - sigmoid\n", "", "train.hidden_sizes has 2 layers but activations has 1"),
        (
            "dataset: mnist",
            "dataset: cifar",
            "prepare.dataset: 'cifar' is not allowed: input should",
        ),
        ("size: 5000", "size: 7", "prepare.validation_size: 7 is too small"),
        (
            "size: 5000",
            "size: 60000",
            "prepare.validation_size: 60000 is not allowed: input should",
        ),
        (
            "device: cpu             #",
            "device: tpu             #",
            "train.device: 'tpu' is not allowed: input should be 'auto'",
        ),
        (
            "recipe: train ",
            "recipe: slow ",
            "recipe: 'slow' is not allowed: input should be 'train', 'f",
        ),
        ("  - 5\n  - 5\n  - 3\n", "  - 5\n", "convolutional.channels, kernel_sizes and pool_sizes"),
        (
            "  - 5\n  - 5\n  - 3\n",
            "  - 5\n  - 5\n  - 9\n",
            "convolutional.kernel_sizes: [5, 5, 9] with pool_sizes [2, 2, 1] leave nothing",
        ),
        ("tolerance: 1.0e-5", "tolerance: 0", "export.tolerance: 0 is not allowed"),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(params_file: Path, old: str, new: str, line: str):
    change(params_file, old, new)
    with pytest.raises(UserError) as caught:
        load_params()
    message = str(caught.value)
    assert f"params.yaml: {line}" in message
    assert "\n" not in message


def test_all_bad_values_are_named_at_once(params_file: Path):
    change(params_file, "epochs: 10", "epochs: 0")
    change(params_file, "tolerance: 1.0e-5", "tolerance: -1")
    with pytest.raises(
        UserError, match=r"train\.epochs: 0 .*; params\.yaml: export\.tolerance: -1 "
    ):
        load_params()


@pytest.mark.parametrize("text", ["a: [1", "", "- 1", "\tx: 1", "a: 1\na: 2\n"])
def test_a_file_that_holds_no_sections_is_one_line(params_file: Path, text: str):
    params_file.write_text(text)
    with pytest.raises(UserError, match=r"^params\.yaml: [^\n]+$"):
        load_params()


def test_a_missing_file_is_one_line(in_empty_folder: Path):
    with pytest.raises(UserError, match=r"^params\.yaml: no such file"):
        load_params()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "gelu"])
def test_every_allowed_activation_can_be_built(params_file: Path, activation: str):
    change(params_file, "- sigmoid", f"- {activation}")
    train = load_params().train
    network = build(train.description)
    assert isinstance(network[5], ACTIVATIONS[activation])


@pytest.mark.parametrize("stage", [prepare, train, evaluate, export])
def test_a_stage_refuses_a_slip_in_any_section_before_any_work(
    params_file: Path, stage: ModuleType
):
    change(params_file, "tolerance: 1.0e-5", "tolerance: high")
    with pytest.raises(UserError, match=r"export\.tolerance: 'high' is not allowed"):
        stage.main()
    assert list(Path().iterdir()) == [Path("params.yaml")]


def test_a_user_sees_one_line_and_no_traceback(project: Project):
    project.edit("params.yaml", "tolerance: 1.0e-5", "tolerance: high")
    output = project.run("python", "stages/evaluate.py", fails=True)
    assert output == (
        "error: params.yaml: export.tolerance: 'high' is not allowed: "
        "input should be a valid number\n"
    )
    assert project.git_status() == " M params.yaml\n"
