import json
import re
from pathlib import Path

from common.arrays import save_split
from common.determinism import fix_training
from common.errors import UserError
from common.networks import build, to_input
from common.params import TrainParams, load_params
from common.weights import DESCRIPTION, WEIGHTS, load_network, save_network
from train import main, pick_device, train

import pytest
import torch
from conftest import ROOT, change
from torch.nn.functional import cross_entropy

IMAGES = torch.randint(
    0, 256, (70, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(70) % 10


def params(**changes: object) -> TrainParams:
    defaults = load_params(ROOT / "params.yaml").train.model_dump()
    return TrainParams(**defaults | {"hidden_sizes": [16], "activations": ["tanh"]} | changes)


def trained(**changes: object) -> tuple[torch.nn.Module, list[float]]:
    recipe = params(**changes)
    fix_training(recipe.seed)
    network = build(recipe.hidden_sizes, recipe.activations, recipe.dropout)
    return network, list(train(network, IMAGES, LABELS, recipe))


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_input_is_what_to_tensor_gives():
    image = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    assert torch.equal(to_input(image), torch.tensor([[[[0.0, 0.2, 1.0]]]]))


def test_the_network_gives_logits():
    outputs = build([16], ["tanh"], dropout=0.2)(to_input(IMAGES))
    assert outputs.shape == (70, 10)
    assert outputs.min() < 0


def test_training_learns_the_images():
    _, losses = trained(epochs=60, learning_rate=1e-2, dropout=0.0)
    assert len(losses) == 60
    assert losses[0] > 2
    assert losses[-1] < 0.5


def test_training_is_the_recipe_of_the_tutorial():
    """Each epoch sees every image once, in batches, by Adam on the mean cross-entropy."""
    recipe = params(epochs=3, dropout=0.0)
    network, losses = trained(epochs=3, dropout=0.0)

    fix_training(recipe.seed)
    reference = build([16], ["tanh"], 0.0)
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, fused=False)
    shuffle = torch.Generator().manual_seed(recipe.seed)
    for epoch in range(3):
        order, total = torch.randperm(70, generator=shuffle), 0.0
        for start in range(0, 70, 32):
            batch = order[start : start + 32]
            loss = cross_entropy(reference(IMAGES[batch].unsqueeze(1) / 255), LABELS[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        assert losses[epoch] == pytest.approx(total / 70, rel=1e-5)
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_same_seed_gives_the_same_network_and_another_seed_another():
    network, _ = trained(epochs=2)
    assert equal(network, trained(epochs=2)[0])
    assert not equal(network, trained(epochs=2, seed=1)[0])


def test_dropout_is_part_of_training():
    assert not equal(trained(epochs=1)[0], trained(epochs=1, dropout=0.5)[0])


def test_the_stored_network_is_rebuilt_from_its_own_files(in_empty_folder: Path):
    network, _ = trained(epochs=1)
    save_network(network, {"hidden_sizes": [16], "activations": ["tanh"], "dropout": 0.2})
    rebuilt = load_network()
    assert equal(network, rebuilt)
    assert not rebuilt.training
    state = torch.load(WEIGHTS, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (WEIGHTS, b""),
        (WEIGHTS, b"damaged"),
        (WEIGHTS, None),
        (DESCRIPTION, b""),
        (DESCRIPTION, b'{"hidden_sizes": [17], "activations": ["tanh"], "dropout": 0.2}'),
        (DESCRIPTION, b'{"layers": 3}'),
        (DESCRIPTION, None),
    ],
)
def test_a_network_that_cannot_be_rebuilt_is_one_line(
    in_empty_folder: Path, path: Path, content: bytes | None
):
    network, _ = trained(epochs=1)
    save_network(network, {"hidden_sizes": [16], "activations": ["tanh"], "dropout": 0.2})
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^[^\n]*{path}[^\n]*`dvc repro[^\n]*$"):
        load_network()


def test_a_device_that_is_not_there_is_one_line():
    assert pick_device("cpu") == torch.device("cpu")
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(UserError, match=rf"train\.device: '{missing}' is not on this machine.*cpu"):
        pick_device(missing)
    assert pick_device("auto").type in ("cpu", "cuda", "mps")


@pytest.fixture
def prepared(params_file: Path) -> Path:
    """What train reads: parameters for two epochs, 70 training and 20 validation images."""
    change(params_file, "epochs: 10", "epochs: 2")
    save_split("train", IMAGES.numpy(), LABELS.to(torch.uint8).numpy())
    save_split("validation", IMAGES[:20].numpy(), LABELS[:20].to(torch.uint8).numpy())
    return params_file


def test_each_epoch_is_one_line_and_one_row(prepared: Path, capsys: pytest.CaptureFixture[str]):
    main()
    lines = capsys.readouterr().out.splitlines()
    for epoch, line in enumerate(lines, start=1):
        assert re.fullmatch(
            rf"Epoch {epoch}: train loss \d\.\d{{6}}, "
            r"validation accuracy \d+\.\d\d%, validation loss \d\.\d{6}",
            line,
        )
    assert len(lines) == 2
    for metric in ("train/loss", "validation/accuracy", "validation/loss"):
        rows = Path(f"metrics/train/plots/metrics/{metric}.tsv").read_text().splitlines()
        assert rows[0] == f"step\t{Path(metric).name}"
        assert [row.split("\t")[0] for row in rows[1:]] == ["1", "2"]
    last = json.loads(Path("metrics/train/metrics.json").read_text())
    assert sorted(last) == ["step", "train", "validation"]
    assert f"{last['validation']['loss']:.6f}" in lines[-1]


def test_without_a_validation_set_training_reports_the_training_loss_alone(
    prepared: Path, capsys: pytest.CaptureFixture[str]
):
    save_split("validation", IMAGES[:0].numpy(), LABELS[:0].to(torch.uint8).numpy())
    main()
    output = capsys.readouterr().out
    assert "Epoch 2: train loss " in output
    assert "validation" not in output
    assert sorted(json.loads(Path("metrics/train/metrics.json").read_text())) == ["step", "train"]


def test_a_loss_that_is_no_number_ends_training_and_keeps_earlier_weights(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+38")
    WEIGHTS.parent.mkdir()
    WEIGHTS.write_bytes(b"earlier")
    metrics = Path("metrics/train/metrics.json")
    metrics.parent.mkdir(parents=True)
    metrics.write_bytes(b"earlier")
    with pytest.raises(
        UserError, match=r"train\.learning_rate: 1e\+38 led to a loss of (nan|inf) "
    ):
        main()
    assert WEIGHTS.read_bytes() == b"earlier"
    assert metrics.read_bytes() == b"earlier"
    assert [path.name for path in Path("metrics").iterdir()] == ["train"]


def test_weights_that_are_no_numbers_are_refused_although_the_loss_before_was_one(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+38")
    change(prepared, "epochs: 2", "epochs: 1")
    change(prepared, "batch_size: 32", "batch_size: 1000")
    with pytest.raises(UserError, match=r"a loss of 2\.\d+ and to weights that are not finite"):
        main()
    assert not WEIGHTS.exists()


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_prepared_data_that_cannot_be_read_is_one_line(prepared: Path, content: bytes | None):
    path = Path("data/prepared/train.safetensors")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}: [^\n]*`dvc repro[^\n]*$"):
        main()
