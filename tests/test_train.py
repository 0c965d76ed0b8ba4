import json
import re
from pathlib import Path

from common.arrays import save_split
from common.errors import UserError
from common.networks import build, to_input
from common.weights import RECORD, WEIGHTS, load_network, save_network
from train import main, pick_device

import pytest
import torch
from conftest import DATASET, TRAINING, change

IMAGES = torch.randint(
    0, 256, (70, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(70) % 10


NETWORK = {
    "network": "feed_forward",
    "hidden_sizes": [16],
    "activations": ["tanh"],
    "dropout": 0.2,
}


def trained() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(NETWORK)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_input_is_what_to_tensor_gives():
    image = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    assert torch.equal(to_input(image), torch.tensor([[[[0.0, 0.2, 1.0]]]]))


def test_the_stored_network_is_rebuilt_from_its_own_files(in_empty_folder: Path):
    network = trained()
    save_network(network, NETWORK, TRAINING)
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
        (RECORD, b""),
        (RECORD, json.dumps({"network": NETWORK | {"hidden_sizes": [17]}}).encode()),
        (RECORD, json.dumps({"network": NETWORK | {"network": "recurrent"}}).encode()),
        (RECORD, b'{"network": {"layers": 3}}'),
        (RECORD, b"[]"),
        (RECORD, None),
    ],
)
def test_a_network_that_cannot_be_rebuilt_is_one_line(
    in_empty_folder: Path, path: Path, content: bytes | None
):
    network = trained()
    save_network(network, NETWORK, TRAINING)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^[^\n]*{path}[^\n]*`dvc repro[^\n]*$"):
        load_network()


def test_a_device_that_is_not_there_is_one_line():
    assert pick_device("cpu", "train") == torch.device("cpu")
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(UserError, match=rf"train\.device: '{missing}' is not on this machine.*cpu"):
        pick_device(missing, "train")
    assert pick_device("auto", "train").type in ("cpu", "cuda", "mps")


@pytest.fixture
def prepared(params_file: Path) -> Path:
    """What train reads: parameters for two epochs, 70 training and 20 validation images."""
    change(params_file, "epochs: 10", "epochs: 2")
    save_split("train", IMAGES.numpy(), LABELS.to(torch.uint8).numpy(), DATASET)
    save_split("validation", IMAGES[:20].numpy(), LABELS[:20].to(torch.uint8).numpy(), DATASET)
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
    save_split("validation", IMAGES[:0].numpy(), LABELS[:0].to(torch.uint8).numpy(), DATASET)
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
        UserError, match=r"train\.learning_rate: 1e\+38 led to losses of \[(nan|inf), "
    ):
        main()
    assert WEIGHTS.read_bytes() == b"earlier"
    assert metrics.read_bytes() == b"earlier"
    assert [path.name for path in Path("metrics").iterdir()] == ["train"]


def test_weights_that_are_no_numbers_are_refused_although_the_loss_before_was_one(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+38")
    change(prepared, "epochs: 2\n  batch_size: 32", "epochs: 1\n  batch_size: 1000")
    with pytest.raises(UserError, match=r"losses of \[2\.\d+, nan\] and to weights that are not f"):
        main()
    assert not WEIGHTS.exists()


def test_a_validation_loss_that_is_no_number_is_refused_although_the_weights_are(prepared: Path):
    change(prepared, "learning_rate: 1.0e-3", "learning_rate: 1.0e+37")
    change(prepared, "epochs: 2\n  batch_size: 32", "epochs: 1\n  batch_size: 1000")
    with pytest.raises(
        UserError, match=r"losses of \[2\.\d+, nan\] and to weights that are finite"
    ):
        main()


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_prepared_data_that_cannot_be_read_is_one_line(prepared: Path, content: bytes | None):
    path = Path("data/prepared/train.safetensors")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}: [^\n]*`dvc repro[^\n]*$"):
        main()
