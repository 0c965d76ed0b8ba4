import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import export
from common.arrays import save_split
from common.errors import UserError
from common.formats import PROVENANCE, to_onnx, to_program, to_pt2, to_torchscript
from common.networks import build
from common.params import ExportParams, load_params
from common.weights import save_network
from export import CARD, FILES, check

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import DATASET, ROOT, TRAINING, change
from torch import nn

IMAGES = torch.randint(
    0, 256, (25, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
INPUTS = (IMAGES.unsqueeze(1) / 255).numpy()
FEED_FORWARD = {
    "network": "feed_forward",
    "hidden_sizes": [16],
    "activations": ["tanh"],
    "dropout": 0.5,
}
CONVOLUTIONAL = {
    "network": "convolutional",
    "channels": [4, 8],
    "kernel_sizes": [5, 3],
    "pool_sizes": [2, 2],
}


def lay_out(description: dict) -> None:
    """Store what export reads: a network (untrained), a training and a test set of 25 images."""
    torch.manual_seed(0)
    save_network(build(description), description, TRAINING)
    labels = (torch.arange(25) % 10).to(torch.uint8).numpy()
    for split in ("train", "test"):
        save_split(split, IMAGES.numpy(), labels, DATASET)


@pytest.fixture
def trained(params_file: Path) -> Path:
    lay_out(FEED_FORWARD)
    return params_file.parent


def run_export(folder: Path) -> None:
    subprocess.run([sys.executable, ROOT / "stages/export.py"], cwd=folder, check=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a convolutional network was exported."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lay_out(CONVOLUTIONAL)
    shutil.copy2(ROOT / "params.yaml", folder)
    # Of an untrained network, int8 may lose any part of its chance accuracy.
    change(folder / "params.yaml", "max_accuracy_drop: 0.02", "max_accuracy_drop: 1.0")
    run_export(folder)
    return folder


def by_format(folder: Path) -> dict[str, dict]:
    rows = json.loads((folder / "metrics/export.json").read_text())
    return {row["format"]: row for row in rows}


def eager(folder: Path) -> np.ndarray:
    """Return what the stored network itself says of the images."""
    network = build(json.loads((folder / "models/network.json").read_text())["network"])
    weights = torch.load(folder / "models/model_weights.pth", weights_only=True)
    network.load_state_dict(weights)
    with torch.no_grad():
        return nn.Sequential(network, nn.Softmax(dim=1)).eval()(torch.from_numpy(INPUTS)).numpy()


def test_the_metrics_are_those_of_the_files(exported: Path):
    metrics = by_format(exported)
    assert list(metrics) == ["torchscript", "pt2", "onnx", "int8"]
    expected = eager(exported)
    labels = np.arange(25) % 10
    for name in ("onnx", "int8"):
        session = onnxruntime.InferenceSession(exported / FILES[name])
        [found] = session.run(["probabilities"], {"images": INPUTS})
        assert metrics[name]["max_difference"] == pytest.approx(
            abs(found - expected).max(), abs=1e-6
        )
        assert metrics[name]["accuracy"] == (found.argmax(axis=1) == labels).mean()
        assert metrics[name]["bytes"] == (exported / FILES[name]).stat().st_size
    assert max(metrics[name]["max_difference"] for name in ("torchscript", "pt2", "onnx")) < 1e-5
    assert metrics["int8"]["max_difference"] > 1e-5


@pytest.mark.parametrize("count", [1, 3, 25])
def test_pytorch_loads_both_of_its_formats_for_any_number_of_images(exported: Path, count: int):
    images = torch.from_numpy(INPUTS[:count])
    expected = torch.from_numpy(eager(exported)[:count])
    script = torch.jit.load(exported / "models/model.pth")
    program = torch.export.load(exported / "models/model.pt2").module()
    for model in (script, program):
        torch.testing.assert_close(model(images), expected)
        assert not model(images).requires_grad


@pytest.mark.parametrize("name", ["onnx", "int8"])
def test_onnx_is_one_plain_file_that_needs_no_torch(exported: Path, name: str):
    model = onnx.load(exported / FILES[name], load_external_data=False)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 20}
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    code = (
        "import sys, numpy, onnxruntime; model = onnxruntime.InferenceSession(sys.argv[1]);"
        "[out] = model.run(['probabilities'], {'images': numpy.zeros((3, 1, 28, 28), 'float32')});"
        "print(out.shape, out.sum(axis=1).round(3).tolist(), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-I", "-c", code, exported / FILES[name]]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "(3, 10) [1.0, 1.0, 1.0] False\n"


def test_torchscript_runs_where_this_project_cannot_be_imported(exported: Path):
    code = (
        "import sys, torch; model = torch.jit.load(sys.argv[1]);"
        "print(list(model(torch.zeros(3, 1, 28, 28)).shape), model.training, 'common' in sys.modules)"
    )
    command = [sys.executable, "-I", "-c", code, exported / "models/model.pth"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "[3, 10] False False\n"


def test_each_file_tells_where_it_comes_from(exported: Path):
    def extra(file: str) -> str:
        records = zipfile.ZipFile(exported / file)
        [name] = [n for n in records.namelist() if n.endswith(f"extra/{PROVENANCE}.json")]
        return records.read(name).decode()

    texts = [extra("models/model.pth"), extra("models/model.pt2")]
    for name in ("onnx", "int8"):
        model = onnx.load(exported / FILES[name])
        [entry] = [entry for entry in model.metadata_props if entry.key == PROVENANCE]
        texts.append(entry.value)
    assert len(set(texts)) == 1
    provenance = json.loads(texts[0])
    assert provenance["training"] == TRAINING
    assert provenance["network"] == CONVOLUTIONAL
    assert (
        provenance["test"]["accuracy"]
        == (eager(exported).argmax(axis=1) == np.arange(25) % 10).mean()
    )
    assert provenance["versions"]["torch"] == "2.13.0"


def test_the_card_s_own_lines_load_each_file(exported: Path):
    card = (exported / CARD).read_text()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 4
    for file, snippet in zip(FILES.values(), snippets, strict=True):
        assert str(file) in snippet
        assert len(snippet.splitlines()) == 5
        result = subprocess.run(
            [sys.executable, "-c", snippet],
            cwd=exported,
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(re.findall(r"\d", result.stdout)) == 3


def test_the_card_has_what_was_measured(exported: Path):
    card = (exported / CARD).read_text()
    metrics = by_format(exported)
    assert f"Accuracy {metrics['onnx']['accuracy']:.2%}, " in card
    for name, values in metrics.items():
        assert f"| `{FILES[name].name}` | " in card
        assert f"| {values['bytes']:,} | {values['accuracy']:.2%} |" in card
    assert len(re.findall(r"^\| \d \| ", card, re.MULTILINE)) == 10
    assert DATASET["sha256"] in card


def test_the_bytes_do_not_tell_where_they_were_made(trained: Path, tmp_path: Path):
    run_export(trained)
    other = tmp_path / "another folder"
    # Another copy of the code, too: its path must not be in the files either.
    for name in ("stages", "data"):
        shutil.copytree((ROOT if name == "stages" else trained) / name, other / name)
    (other / "models").mkdir()
    for name in ("models/model_weights.pth", "models/network.json", "params.yaml"):
        shutil.copy2(trained / name, other / name)
    shutil.copy2(ROOT / "requirements.txt", other)
    subprocess.run([sys.executable, "stages/export.py"], cwd=other, check=True)
    for file in (*FILES.values(), CARD):
        assert (other / file).read_bytes() == (trained / file).read_bytes(), file
    for file in FILES.values():
        content = (trained / file).read_bytes()
        texts = [content]
        if zipfile.is_zipfile(io.BytesIO(content)):
            records = zipfile.ZipFile(io.BytesIO(content))
            texts = [records.read(name) for name in records.namelist()]
        for path in (str(ROOT), str(tmp_path), torch.__path__[0]):
            assert all(path.encode() not in text for text in texts), file


def test_what_is_not_chosen_is_an_empty_file(trained: Path):
    change(
        Path("params.yaml"), "  - torchscript\n  - pt2\n  - onnx\n  - int8\n", "  - torchscript\n"
    )
    Path("models/model.onnx").write_bytes(b"earlier")
    run_export(trained)
    assert list(by_format(trained)) == ["torchscript"]
    assert Path("models/model.pth").stat().st_size > 10_000
    assert all(FILES[name].stat().st_size == 0 for name in ("pt2", "onnx", "int8"))
    assert "model.onnx" not in CARD.read_text()


def params(**changes: object) -> ExportParams:
    return load_params(ROOT / "params.yaml").export.model_copy(update=changes)


def test_a_model_that_differs_is_refused():
    check({"format": "onnx", "max_difference": 1e-6, "accuracy": 0.9}, 0.9, params(tolerance=1e-5))
    for metrics, line in (
        (
            {"max_difference": 1e-4, "accuracy": 0.9},
            r"a probability is 1\.0e-04 .* allows 1\.0e-05",
        ),
        ({"max_difference": float("nan"), "accuracy": 0.9}, "a probability is nan"),
        (
            {"max_difference": 1e-6, "accuracy": 0.8},
            r"accuracy 0\.8 is not the eager network's 0\.9",
        ),
    ):
        with pytest.raises(UserError, match=rf"^models/model\.onnx: [^\n]*{line}"):
            check({"format": "onnx", **metrics}, 0.9, params(tolerance=1e-5))


def test_int8_may_differ_but_not_lose_more_than_allowed():
    allowed = params(max_accuracy_drop=0.01)
    check({"format": "int8", "max_difference": 0.3, "accuracy": 0.895}, 0.9, allowed)
    check({"format": "int8", "max_difference": 0.3, "accuracy": 0.95}, 0.9, allowed)
    with pytest.raises(
        UserError, match=r"int8\.onnx: test accuracy 0\.88 .*max_accuracy_drop allows 0\.01"
    ):
        check({"format": "int8", "max_difference": 0.3, "accuracy": 0.88}, 0.9, allowed)


@pytest.mark.parametrize("damage", ["another network", "no model"])
def test_a_refused_model_leaves_the_earlier_files(
    trained: Path, monkeypatch: pytest.MonkeyPatch, damage: str
):
    for file in FILES.values():
        file.write_bytes(b"earlier")

    def damaged(*_: object) -> bytes:
        if damage == "no model":
            return b"damaged"
        torch.manual_seed(1)
        return to_onnx(to_program(nn.Sequential(build(FEED_FORWARD), nn.Softmax(dim=1)).eval()), {})

    monkeypatch.setattr(export, "to_onnx", damaged)
    change(Path("params.yaml"), "  - int8\n", "")
    line = {"another network": "a probability is", "no model": "does not run"}[damage]
    with pytest.raises(UserError, match=rf"^models/model\.onnx: {line}.*not exported"):
        export.main()
    assert all(file.read_bytes() == b"earlier" for file in FILES.values())
    assert not Path("metrics").exists()
    assert sorted(path.name for path in Path("models").iterdir()) == sorted(
        ["model_weights.pth", "network.json", *(file.name for file in FILES.values())]
    )


def test_every_recipe_of_the_project_can_be_exported():
    """The real layers, untrained: what the formats support does not depend on the weights."""
    everything = load_params(ROOT / "params.yaml")
    images = torch.from_numpy(INPUTS[:3])
    for recipe in (
        everything.train,
        everything.fast,
        everything.convolutional,
        everything.thorough,
    ):
        classifier = nn.Sequential(build(recipe.description), nn.Softmax(dim=1)).eval()
        classifier.requires_grad_(False)
        expected = classifier(images).numpy()
        program = to_program(classifier)
        session = onnxruntime.InferenceSession(to_onnx(program, {}))
        [found] = session.run(["probabilities"], {"images": images.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-5)
        loaded = torch.export.load(io.BytesIO(to_pt2(program, {}))).module()
        np.testing.assert_allclose(loaded(images).numpy(), expected, atol=1e-6)
        script = torch.jit.load(io.BytesIO(to_torchscript(classifier, {})))
        np.testing.assert_allclose(script(images).numpy(), expected, atol=1e-6)
