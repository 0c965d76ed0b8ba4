import json
import re
from pathlib import Path

import pytest
import torch

from stages.common.errors import UserError
from stages.common.params import load_params
from stages.common.splits import TRAIN, VALIDATION, load_split
from stages.network.checkpoint import RECORD, WEIGHTS, load_network
from stages.network.inference import accuracy, mean_loss, predict_batches
from stages.network.networks import build
from stages.train import EPOCHS, METRICS, main
from stages.training import feed_forward
from tests.project import change
from tests.samples import DATASET, random_images, run_stage, store

IMAGES = random_images(70)
LABELS = torch.arange(70) % 10


@pytest.fixture
def prepared(params_file: Path) -> Path:
    """What train reads: parameters for two epochs, 70 training and 20 validation images."""
    change(params_file, "epochs: 10", "epochs: 2")
    store(TRAIN, IMAGES, LABELS)
    store(VALIDATION, IMAGES[:20], LABELS[:20])
    return params_file


def test_each_epoch_is_one_line_and_one_row(prepared: Path, capsys: pytest.CaptureFixture[str]):
    run_stage(main)
    lines = capsys.readouterr().out.splitlines()
    for epoch, line in enumerate(lines, start=1):
        assert re.fullmatch(
            rf"Epoch {epoch}: train loss \d\.\d{{6}}, "
            r"validation accuracy \d+\.\d\d%, validation loss \d\.\d{6}",
            line,
        )
    assert len(lines) == 2
    rows = EPOCHS.read_text().splitlines()
    assert rows[0] == "epoch,train_loss,train_accuracy,validation_loss,validation_accuracy"
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2"]
    last = json.loads(METRICS.read_text())
    figures = [
        last[part][name] for part in ("train", "validation") for name in ("loss", "accuracy")
    ]
    assert [float(cell) for cell in rows[-1].split(",")[1:]] == figures
    assert f"{last['validation']['loss']:.6f}" in lines[-1]


def test_the_stored_network_has_the_last_validation_s_figures(prepared: Path):
    run_stage(main)
    network, _ = load_network()
    logits = predict_batches(network, IMAGES[:20], batch_size=20)
    assert json.loads(METRICS.read_text())["validation"] == pytest.approx(
        {"loss": mean_loss(logits, LABELS[:20]), "accuracy": accuracy(logits, LABELS[:20])}
    )


def test_the_seed_draws_the_initial_weights_too(prepared: Path):
    change(prepared, "  seed: 0                 # draws initial", "  seed: 7  # draws initial")
    run_stage(main)
    stored, _ = load_network()
    recipe = load_params().recipe
    torch.manual_seed(7)
    network = build(recipe.architecture, 10)
    training = feed_forward.Training(network, load_split(TRAIN), recipe, 7)
    for epoch in range(1, recipe.epochs + 1):
        training.epoch(epoch)
    for name, values in network.state_dict().items():
        assert torch.equal(stored.state_dict()[name], values)


@pytest.mark.parametrize("name", ["tutorial", "convolutional"])
def test_the_record_says_how_the_weights_were_made(prepared: Path, name: str):
    change(prepared, "recipe: tutorial", f"recipe: {name}")
    change(prepared, "  seed: 0                 # draws initial", "  seed: 7  # draws initial")
    prepared.write_text(prepared.read_text().replace("epochs: 8\n", "epochs: 1\n"))
    run_stage(main)
    _, record = load_network()
    recipe = load_params().recipe
    parameters = record["training"].pop("parameters")
    assert record["training"] == {
        "dataset": DATASET,
        "images": 70,
        "recipe": name,
        "seed": 7,
        "device": "cpu",
    }
    assert record["network"] | parameters == recipe.model_dump()
    assert record["network"] == recipe.architecture
    assert record["network"].keys().isdisjoint(parameters)


def test_the_same_seed_gives_the_same_files_and_another_seed_others(prepared: Path):
    def files() -> list[bytes]:
        run_stage(main)
        return [path.read_bytes() for path in (WEIGHTS, RECORD, METRICS, EPOCHS)]

    first = files()
    assert files() == first
    change(prepared, "  seed: 0                 # draws initial", "  seed: 1  # draws initial")
    assert all(new != old for new, old in zip(files(), first, strict=True))


def test_without_a_validation_set_training_reports_the_training_loss_alone(
    prepared: Path, capsys: pytest.CaptureFixture[str]
):
    store(VALIDATION, IMAGES[:0], LABELS[:0])
    run_stage(main)
    output = capsys.readouterr().out
    assert "Epoch 2: train loss " in output
    assert "validation" not in output
    assert list(json.loads(METRICS.read_text())) == ["train"]
    assert EPOCHS.read_text().splitlines()[-1].endswith(",,")  # empty cells


def test_a_loss_that_is_no_number_ends_training_and_keeps_earlier_weights(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+38")
    files = (WEIGHTS, RECORD, METRICS, EPOCHS)
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"earlier")
    with pytest.raises(
        UserError, match=r"recipes\.tutorial\.learning_rate: 1e\+38 led to losses of \[(nan|inf), "
    ):
        run_stage(main)
    assert all(path.read_bytes() == b"earlier" for path in files)
    assert {*Path("models").iterdir(), *Path("metrics").iterdir()} == set(files)


def test_weights_that_are_no_numbers_are_refused_although_the_loss_before_was_one(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+38")
    change(prepared, "epochs: 2\n    batch_size: 32", "epochs: 1\n    batch_size: 1000")
    with pytest.raises(UserError, match=r"losses of \[2\.\d+, nan\] and to weights that are not f"):
        run_stage(main)
    assert not WEIGHTS.exists()


def test_a_validation_loss_that_is_no_number_is_refused_although_the_weights_are(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+37")
    change(prepared, "epochs: 2\n    batch_size: 32", "epochs: 1\n    batch_size: 1000")
    with pytest.raises(
        UserError, match=r"losses of \[2\.\d+, nan\] and to weights that are finite"
    ):
        run_stage(main)


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_prepared_data_that_cannot_be_read_is_one_line(prepared: Path, content: bytes | None):
    path = Path("data/prepared/train.safetensors")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}: [^\n]*`dvc repro[^\n]*$"):
        run_stage(main)


def test_the_inputs_are_checked_after_each_epoch(
    prepared: Path, capsys: pytest.CaptureFixture[str]
):
    change(prepared, "  seed: 0                 # draws initial", "  seed: 1  # draws initial")
    run_stage(main)
    change(prepared, "  seed: 1  # draws initial", "  seed: 0  # draws initial")
    capsys.readouterr()
    earlier = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    checks = []

    def check_inputs() -> None:
        checks.append(capsys.readouterr().out)
        if len(checks) == 2:
            raise UserError("something changed")

    with pytest.raises(UserError, match="something changed"):
        run_stage(main, check_inputs)
    assert checks[0] == ""
    assert checks[1].startswith("Epoch 1: ")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == earlier
    assert earlier.keys() > {WEIGHTS, RECORD, METRICS, EPOCHS}


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_every_recipe_trains(prepared: Path, device: str):
    text = prepared.read_text()
    for recipe in ("tutorial", "fast", "convolutional", "thorough"):
        changed = text.replace("recipe: tutorial", f"recipe: {recipe}")
        changed = re.sub(r"epochs: \d+", "epochs: 1", changed)
        prepared.write_text(changed.replace("device: cpu ", f"device: {device} "))
        WEIGHTS.unlink(missing_ok=True)
        run_stage(main)
        assert WEIGHTS.exists()
