import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import export
from common.arrays import save_split
from common.errors import UserError
from common.networks import build
from common.weights import save_network
from export import check, to_torchscript

import pytest
import torch
from conftest import ROOT
from torch import nn

IMAGES = torch.randint(
    0, 256, (25, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
NETWORK = {
    "network": "feed_forward",
    "hidden_sizes": [16],
    "activations": ["tanh"],
    "dropout": 0.5,
}


@pytest.fixture
def trained(params_file: Path) -> Path:
    """A folder with what export reads: a network (untrained) and a test set of 25 images."""
    torch.manual_seed(0)
    save_network(build(NETWORK), NETWORK)
    save_split("test", IMAGES.numpy(), (torch.arange(25) % 10).to(torch.uint8).numpy())
    return params_file.parent


def run_export(folder: Path) -> None:
    subprocess.run([sys.executable, ROOT / "stages/export.py"], cwd=folder, check=True)


def test_the_export_runs_where_this_project_cannot_be_imported(trained: Path):
    run_export(trained)
    code = (
        "import sys, torch; model = torch.jit.load(sys.argv[1]);"
        "out = model(torch.zeros(3, 1, 28, 28)); print(list(out.shape), out.sum(dim=1).tolist());"
        "print(model.training, out.requires_grad, 'common' in sys.modules)"
    )
    elsewhere = trained / "elsewhere"
    elsewhere.mkdir()
    result = subprocess.run(
        [sys.executable, "-I", "-c", code, trained / "models/model.pth"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=True,
    )
    shape, flags = result.stdout.splitlines()
    assert shape.startswith("[3, 10] [")
    assert json.loads(shape.removeprefix("[3, 10] ")) == pytest.approx([1, 1, 1])
    assert flags == "False False False"


def test_the_export_equals_the_eager_network(trained: Path):
    run_export(trained)
    metrics = json.loads(Path("metrics/export.json").read_text())["torchscript"]
    assert metrics["max_difference"] <= 1e-6
    assert metrics["bytes"] == Path("models/model.pth").stat().st_size
    inputs = IMAGES.unsqueeze(1) / 255
    eager = nn.Sequential(build(NETWORK), nn.Softmax(dim=1)).eval()
    eager[0].load_state_dict(torch.load("models/model_weights.pth", weights_only=True))
    torch.testing.assert_close(torch.jit.load("models/model.pth")(inputs), eager(inputs))


def test_the_bytes_do_not_tell_where_they_were_made(trained: Path, tmp_path: Path):
    run_export(trained)
    here = Path("models/model.pth").read_bytes()
    other = tmp_path / "another folder"
    for name in (
        "models/model_weights.pth",
        "models/network.json",
        "data/prepared/test.safetensors",
    ):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(Path(name).read_bytes())
    (other / "params.yaml").write_bytes(Path("params.yaml").read_bytes())
    # Another copy of the code, too: its path must not be in the file either.
    shutil.copytree(ROOT / "stages", other / "stages")
    shutil.copy2(ROOT / "requirements.txt", other)
    subprocess.run([sys.executable, "stages/export.py"], cwd=other, check=True)
    assert (other / "models/model.pth").read_bytes() == here
    records = zipfile.ZipFile(io.BytesIO(here))
    for path in (str(ROOT), str(tmp_path), torch.__path__[0]):
        assert all(path.encode() not in records.read(name) for name in records.namelist())


def test_a_model_that_differs_is_refused():
    check({"max_difference": 1e-6, "accuracy": 0.9}, 0.9, tolerance=1e-5)
    with pytest.raises(UserError, match=r"a probability is 1\.0e-04 .* allows 1\.0e-05"):
        check({"max_difference": 1e-4, "accuracy": 0.9}, 0.9, tolerance=1e-5)
    with pytest.raises(UserError, match="a probability is nan"):
        check({"max_difference": float("nan"), "accuracy": 0.9}, 0.9, tolerance=1e-5)
    with pytest.raises(UserError, match=r"test accuracy 0\.8 is not the eager network's 0\.9"):
        check({"max_difference": 1e-6, "accuracy": 0.8}, 0.9, tolerance=1e-5)


def test_a_refused_model_leaves_the_earlier_files(trained: Path, monkeypatch: pytest.MonkeyPatch):
    Path("models/model.pth").write_bytes(b"earlier")

    def of_another_network(_: nn.Module) -> bytes:
        return to_torchscript(nn.Sequential(build(NETWORK), nn.Softmax(dim=1)).eval())

    monkeypatch.setattr(export, "to_torchscript", of_another_network)
    with pytest.raises(UserError, match="not exported"):
        export.main()
    assert Path("models/model.pth").read_bytes() == b"earlier"
    assert not Path("metrics").exists()
    assert sorted(path.name for path in Path("models").iterdir()) == [
        "model.pth",
        "model_weights.pth",
        "network.json",
    ]


def test_no_path_is_left_in_a_traced_module():
    script = to_torchscript(nn.Sequential(build(NETWORK), nn.Softmax(dim=1)).eval())
    assert not [n for n in zipfile.ZipFile(io.BytesIO(script)).namelist() if "debug" in n]
