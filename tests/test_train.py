import csv
import hashlib
import json
import re
import time
from pathlib import Path

import pytest
import torch

from stages.networks.checkpoint import RECORD, WEIGHTS, load_network
from stages.networks.inference import accuracy, mean_loss, predict_batches
from stages.networks.registry import build
from stages.runtime.config import read_yaml
from stages.runtime.errors import UserError
from stages.runtime.splits import TRAIN, VALIDATION, load_split
from stages.train import EPOCHS, RESULTS, main, time_left
from stages.training.loop import Loop
from stages.training.parallel import Group
from stages.training.randomness import draw_from
from tests.project import change
from tests.samples import (
    DATASET,
    RECIPES,
    SHAPE,
    random_images,
    recipe_of,
    run_stage,
    set_value,
    store,
)

IMAGES = random_images(70)
LABELS = torch.arange(70) % 10
SEED = "  seed: {}                 # draws initial"


@pytest.fixture
def prepared(params_file: Path) -> Path:
    """The stage's inputs: parameters for two epochs, 70 training and 20 validation images."""
    change(params_file, "epochs: 10", "epochs: 2")
    store(TRAIN, IMAGES, LABELS)
    store(VALIDATION, IMAGES[:20], LABELS[:20])
    return params_file


def test_each_epoch_is_one_line_and_one_row(prepared: Path, capsys: pytest.CaptureFixture[str]):
    run_stage(main)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    rows = list(csv.DictReader(EPOCHS.read_text().splitlines()))
    assert [row.pop("epoch") for row in rows] == ["1", "2"]
    last = json.loads(RESULTS.read_text())
    assert {"loss", "accuracy"} <= last["train"].keys() == last["validation"].keys()
    figures = {f"{split}_{name}": value for split in last for name, value in last[split].items()}
    assert {column: float(cell) for column, cell in rows[-1].items()} == figures
    results = [
        f"{split} {name} {value:.4f}" for split in last for name, value in last[split].items()
    ]
    assert lines[-1] == f"Epoch 2: {', '.join(results)}"


def test_more_epochs_than_asked_for_are_announced(
    prepared: Path, capsys: pytest.CaptureFixture[str]
):
    change(prepared, "epochs: 2", "epochs: 2\n    min_steps: 7")
    run_stage(main)
    first, *_, last = capsys.readouterr().out.splitlines()
    key = "recipes.tutorial"
    assert first == (
        f"params.yaml: {key}.min_steps: 7 steps take 3 epochs of 70 images, more than {key}.epochs: 2"
    )
    assert last.startswith("Epoch 3: ")


def test_the_stored_network_reproduces_its_validation_results(prepared: Path):
    run_stage(main)
    network, _ = load_network()
    logits = predict_batches(network, IMAGES[:20], batch_size=20)
    results = json.loads(RESULTS.read_text())["validation"]
    assert results["loss"] == pytest.approx(mean_loss(logits, LABELS[:20]))
    assert results["accuracy"] == pytest.approx(accuracy(logits, LABELS[:20]))


def test_the_seed_draws_the_initial_weights_too(prepared: Path):
    change(prepared, SEED.format(0), SEED.format(7))
    change(prepared, "recipe: tutorial", "recipe: convolutional")
    run_stage(main)
    stored, _ = load_network()
    recipe = recipe_of("convolutional")
    with draw_from(torch.Generator().manual_seed(7)):
        network = build(recipe.network, SHAPE, 10).to(memory_format=torch.channels_last)
    loop = Loop(network, load_split(TRAIN), recipe, 7, Group())
    for epoch in range(1, recipe.epochs + 1):
        loop.epoch(epoch)
    for name, values in network.state_dict().items():
        assert torch.equal(stored.state_dict()[name], values)


@pytest.mark.parametrize("name", ["tutorial", "convolutional"])
def test_the_record_says_how_the_weights_were_made(prepared: Path, name: str):
    change(prepared, "recipe: tutorial", f"recipe: {name}")
    change(prepared, SEED.format(0), SEED.format(7))
    prepared.write_text(prepared.read_text().replace("epochs: 8\n", "epochs: 1\n"))
    run_stage(main)
    _, record = load_network()
    recipe = recipe_of(name, epochs=2 if name == "tutorial" else 1).model_dump(
        mode="json", exclude_unset=True
    )
    parameters = record["training"].pop("parameters")
    assert record["training"].pop("unsure_below") is None  # 20 validation images are too few
    assert record["training"] == {
        "dataset": DATASET,
        "images": 70,
        "recipe": name,
        "seed": 7,
        "device": "cpu",
    }
    assert {"network": record["network"], **parameters} == recipe
    assert tuple(record["shape"]) == SHAPE


def test_predictions_are_unsure_that_are_less_probable_than_most_correct_ones(prepared: Path):
    """The threshold is that of the weights that are kept."""
    change(prepared, "epochs: 2", "epochs: 6\n    keep: best")
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e-2")
    # One image for each class, which most validation images contradict: the more is learned, the
    # higher is their loss.
    images, labels = IMAGES[:10].repeat(60, 1, 1, 1), torch.arange(600) % 10
    store(TRAIN, images, labels)
    labels[200:] = (labels[200:] + 1) % 10
    store(VALIDATION, images, labels)
    run_stage(main)
    losses = [
        float(row["validation_loss"]) for row in csv.DictReader(EPOCHS.read_text().splitlines())
    ]
    assert losses.index(min(losses)) < 5, losses  # other weights than the last
    network, record = load_network()
    probabilities = predict_batches(network, images, 250).softmax(dim=1)
    correct = probabilities.argmax(dim=1) == labels
    of_correct = sorted(probabilities.amax(dim=1)[correct].tolist())
    assert len(of_correct) >= 20
    threshold = of_correct[int(0.05 * len(of_correct))]
    assert 0 <= threshold - record["training"]["unsure_below"] < 1e-4


def test_a_long_training_says_how_long_it_will_take():
    started = time.monotonic() - 120
    assert time_left(started, done=2, left=3) == " (03:00 left)"
    assert time_left(started, done=2, left=0) == time_left(started, done=24, left=6) == ""


def test_the_same_seed_gives_the_same_files_and_another_seed_others(prepared: Path):
    def files() -> list[bytes]:
        run_stage(main)
        return [path.read_bytes() for path in (WEIGHTS, RECORD, RESULTS, EPOCHS)]

    first = files()
    assert files() == first
    change(prepared, SEED.format(0), SEED.format(1))
    assert all(new != old for new, old in zip(files(), first, strict=True))


def test_without_a_validation_set_training_reports_the_training_loss_alone(
    prepared: Path, capsys: pytest.CaptureFixture[str]
):
    store(VALIDATION, IMAGES[:0], LABELS[:0])
    run_stage(main)
    output = capsys.readouterr().out
    assert "Epoch 2: train loss " in output
    assert "validation" not in output
    assert list(json.loads(RESULTS.read_text())) == ["train"]
    assert EPOCHS.read_text().splitlines()[-1].endswith(",,")  # empty cells


def test_an_infinite_loss_ends_training_and_keeps_the_earlier_weights(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+38")
    files = (WEIGHTS, RECORD, RESULTS, EPOCHS)
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"earlier")
    with pytest.raises(
        UserError,
        match=r"optimizer\.learning_rate: 1e\+38 led to losses of \[(nan|inf), ",
    ):
        run_stage(main)
    assert all(path.read_bytes() == b"earlier" for path in files)
    assert {*Path("models").iterdir(), *Path("metrics").iterdir()} == set(files)


def test_infinite_weights_are_refused_even_if_the_training_loss_is_finite(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+38")
    change(prepared, "epochs: 2\n    batch_size: 32", "epochs: 1\n    batch_size: 1000")
    with pytest.raises(UserError, match=r"losses of \[2\.\d+, nan\] and to weights that are not f"):
        run_stage(main)
    assert not WEIGHTS.exists()


def test_an_infinite_validation_loss_is_refused_even_if_the_weights_are_finite(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+37")
    change(prepared, "epochs: 2\n    batch_size: 32", "epochs: 1\n    batch_size: 1000")
    with pytest.raises(
        UserError, match=r"losses of \[2\.\d+, nan\] and to weights that are finite"
    ):
        run_stage(main)


def set_values(params_file: Path, **values: object) -> None:
    params = read_yaml(params_file)
    for key, value in values.items():
        set_value(params, key, value)
    params_file.write_text(json.dumps(params))  # JSON is YAML


def test_the_best_epoch_is_kept(prepared: Path, capsys: pytest.CaptureFixture[str]):
    """At this rate, the network learns 70 random images by heart: validation is best before the end."""
    recipe = {"recipes.fast.epochs": 6, "recipes.fast.batch_size": 10}
    store(VALIDATION, random_images(90)[70:], LABELS[:20])
    set_values(prepared, **{"train.recipe": "fast", **recipe})
    run_stage(main)
    rows = list(csv.DictReader(EPOCHS.read_text().splitlines()))
    losses = [float(row["validation_loss"]) for row in rows]
    best = losses.index(min(losses)) + 1
    assert 1 < best < 6
    set_values(prepared, **{"recipes.fast.epochs": best})
    run_stage(main)
    weights = load_network()[0].state_dict()
    set_values(prepared, **{"recipes.fast.epochs": 6, "recipes.fast.keep": "best"})
    capsys.readouterr()
    run_stage(main)
    assert f"Keeping epoch {best}: " in capsys.readouterr().out
    assert json.loads(RESULTS.read_text())["validation"]["loss"] == losses[best - 1]
    assert len(EPOCHS.read_text().splitlines()) == 7
    for name, value in load_network()[0].state_dict().items():
        assert torch.equal(value, weights[name])
    set_values(prepared, **{"recipes.fast.patience": 1})
    run_stage(main)
    worse = [epoch for epoch in range(1, 6) if losses[epoch] >= min(losses[:epoch])]
    rows = list(csv.DictReader(EPOCHS.read_text().splitlines()))
    assert [float(row["validation_loss"]) for row in rows] == losses[: worse[0] + 1]


@pytest.mark.parametrize(("key", "value"), [("keep", "best"), ("patience", 3)])
def test_the_best_epoch_needs_a_validation_set(prepared: Path, key: str, value: object):
    store(VALIDATION, IMAGES[:0], LABELS[:0])
    set_values(prepared, **{f"recipes.tutorial.{key}": value})
    with pytest.raises(UserError, match=r"^params.yaml: recipes.tutorial: keep: best and patience"):
        run_stage(main)


def test_a_training_starts_from_the_weights_of_another(
    prepared: Path, capsys: pytest.CaptureFixture[str]
):
    run_stage(main)
    earlier, path = load_network()[0].state_dict(), Path("weights/earlier.pth")
    WEIGHTS.rename(path)
    rate = {"recipes.tutorial.optimizer.learning_rate": 1e-20}
    set_values(prepared, **{"train.initial_weights": str(path), **rate})
    run_stage(main)
    assert f"Starting from {path}; random: nothing" in capsys.readouterr().out
    network, record = load_network()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["training"]["initial_weights"] == {
        "file": str(path),
        "sha256": sha256,
        "random": [],
    }
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, earlier[name])
    set_values(prepared, **{"recipes.tutorial.freeze": True, **rate | dict.fromkeys(rate, 0.1)})
    run_stage(main)
    for name, value in load_network()[0].state_dict().items():
        assert torch.equal(value, earlier[name]) == (not name.startswith("7."))


def test_other_precisions_are_for_gpus(prepared: Path):
    set_values(prepared, **{"recipes.tutorial.precision": "bfloat16"})
    with pytest.raises(
        UserError, match=r"^params.yaml: recipes.tutorial.precision: bfloat16 is for"
    ):
        run_stage(main)


def test_random_weights_are_not_frozen(prepared: Path):
    set_values(prepared, **{"recipes.tutorial.freeze": True})
    with pytest.raises(UserError, match=r"^params.yaml: recipes.tutorial.freeze: true would keep"):
        run_stage(main)


@pytest.mark.parametrize("path", ["models/model_weights.pth", "weights/../models/a", "/weights/a"])
def test_initial_weights_are_in_their_folder(prepared: Path, path: str):
    set_values(prepared, **{"train.initial_weights": path})
    with pytest.raises(
        UserError,
        match=rf"^params.yaml: train.initial_weights: '{path}' is not allowed: use a file",
    ):
        run_stage(main)


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_missing_or_damaged_prepared_data_is_one_line(prepared: Path, content: bytes | None):
    path = Path("data/prepared/train.safetensors")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}: [^\n]*`dvc repro[^\n]*$"):
        run_stage(main)


def test_the_inputs_are_checked_after_each_epoch(
    prepared: Path, capsys: pytest.CaptureFixture[str]
):
    change(prepared, SEED.format(0), SEED.format(1))
    run_stage(main)
    change(prepared, SEED.format(1), SEED.format(0))
    capsys.readouterr()

    def files() -> dict[Path, bytes]:
        """Return all files but those that are published after each epoch."""
        paths = {path for path in Path().rglob("*") if path.is_file()} - {RESULTS, EPOCHS}
        return {path: path.read_bytes() for path in paths}

    earlier = files()
    checks = []

    def check_inputs() -> None:
        checks.append(capsys.readouterr().out)
        if len(checks) == 2:
            raise UserError("something changed")

    with pytest.raises(UserError, match="something changed"):
        run_stage(main, check_inputs)
    assert checks[0] == ""
    assert checks[1].startswith("Epoch 1: ")
    assert files() == earlier and earlier.keys() > {WEIGHTS, RECORD}
    assert len(EPOCHS.read_text().splitlines()) == 2  # the epoch before the check


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_every_recipe_trains(prepared: Path, device: str):
    text = prepared.read_text()
    for recipe in RECIPES:
        changed = text.replace("recipe: tutorial", f"recipe: {recipe}")
        changed = re.sub(r"epochs: \d+", "epochs: 1", changed)
        changed = re.sub(r"min_steps: \d+", "min_steps: 0", changed)
        prepared.write_text(changed.replace("device: cpu ", f"device: {device} "))
        WEIGHTS.unlink(missing_ok=True)
        run_stage(main)
        assert WEIGHTS.exists()
