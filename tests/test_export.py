import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import nn

from stages import export
from stages.export import CARD, SIZES, main
from stages.exporting.formats import FORMATS
from stages.exporting.torch_files import PROVENANCE, Classifier, write_torchscript
from stages.networks.checkpoint import WEIGHTS, save_network
from stages.networks.convolutional import Convolutional
from stages.networks.registry import Network, build, parse
from stages.runtime.errors import UserError
from stages.runtime.splits import TEST, TRAIN
from tests.project import ROOT, Project, change, copy_of, default_params
from tests.samples import (
    CLASSES,
    DATASET,
    NETWORK,
    SHAPE,
    TRAINING,
    random_images,
    run_stage,
    store,
    write,
)

FILES = {form.name: form.file for form in FORMATS}
IMAGES = random_images(25)
INPUTS = (IMAGES / 255).numpy()
CONVOLUTIONAL = Convolutional(
    kind="convolutional", channels=[4, 8], kernel_sizes=[5, 3], pool_sizes=[2, 2]
)


def lay_out(config: Network) -> None:
    """Store what export reads: a network (untrained), a training and a test set of 25 images."""
    torch.manual_seed(0)
    network = build(config, SHAPE, 10)
    write(lambda outputs: save_network(outputs, network, config, SHAPE, TRAINING))
    for path in (TRAIN, TEST):
        store(path, IMAGES, torch.arange(25) % 10)


@pytest.fixture
def trained(params_file: Path) -> Path:
    lay_out(NETWORK)
    return params_file.parent


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a convolutional network was exported."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lay_out(CONVOLUTIONAL)
        (folder / "params.yaml").write_text(default_params())
        # Of an untrained network, int8 may lose any part of its chance accuracy.
        change(folder / "params.yaml", "max_accuracy_drop: 0.02", "max_accuracy_drop: 1.0")
        run_stage(main)
    return folder


def eager(folder: Path) -> np.ndarray:
    """Return the stored network's probabilities of the images."""
    record = json.loads((folder / "models/network.json").read_text())
    network = build(parse(record["network"]), SHAPE, 10)
    weights = torch.load(folder / "models/model_weights.pth", weights_only=True)
    network.load_state_dict(weights)
    with torch.no_grad():
        return nn.Sequential(network, nn.Softmax(dim=1)).eval()(torch.from_numpy(INPUTS)).numpy()


def test_the_metrics_are_those_of_the_files(exported: Path):
    assert json.loads((exported / SIZES).read_text()) == [
        {"format": form.name, "bytes": (exported / form.file).stat().st_size} for form in FORMATS
    ]


def test_int8_is_near_the_network_and_onnx_is_it(exported: Path):
    expected = eager(exported)
    difference = {}
    for name in ("onnx", "int8"):
        session = onnxruntime.InferenceSession(exported / FILES[name])
        [probabilities] = session.run(["probabilities"], {"images": INPUTS})
        difference[name] = abs(probabilities - expected).max()
    assert difference["onnx"] < 1e-6
    assert 1e-6 < difference["int8"] < 0.01


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
        "print(list(model(torch.zeros(3, 1, 28, 28)).shape), model.training, 'stages' in sys.modules)"
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
    assert provenance["network"] == CONVOLUTIONAL.model_dump()
    assert (
        provenance["test"]["accuracy"]
        == (eager(exported).argmax(axis=1) == np.arange(25) % 10).mean()
    )
    assert provenance["versions"]["torch"] == "2.13.0"


def test_the_files_of_the_hub_have_the_weights_and_the_labels(exported: Path):
    weights = safetensors.torch.load_file(exported / "models/model.safetensors")
    expected = torch.load(exported / WEIGHTS, weights_only=True)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    config = json.loads((exported / "models/config.json").read_text())
    assert config["id2label"] == {str(label): name for label, name in enumerate(CLASSES)}
    assert (config["num_channels"], config["image_size"]) == (1, 28)


def test_the_card_s_own_lines_load_each_file(exported: Path):
    card = (exported / CARD).read_text()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for form, snippet in zip(FORMATS, snippets, strict=True):
        assert snippet.startswith(form.usage(form.file))  # which `trial` runs
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(snippets)],  # in one process, since torch takes its time
        cwd=exported,
        capture_output=True,
        text=True,
        check=True,
    )
    digits = [len(re.findall(r"\d", line)) for line in result.stdout.splitlines()]
    assert digits == [3] * len(FORMATS)


def test_the_card_has_what_was_measured(exported: Path):
    card = (exported / CARD).read_text()
    accuracy = (eager(exported).argmax(axis=1) == np.arange(25) % 10).mean()
    assert f"Accuracy {accuracy:.2%}, " in card
    for form in FORMATS:
        size = (exported / form.file).stat().st_size
        assert f"| `{form.file.name}` | {form.description} | {size:,} |" in card
    assert len(re.findall(r"^\| \d \| ", card, re.MULTILINE)) == 10
    assert DATASET["sha256"] in card


@pytest.mark.slow
def test_the_bytes_do_not_tell_where_they_were_made(project: Project, tmp_path: Path):
    """By real processes, in two copies of the code and with other hash seeds."""
    other = copy_of(project, tmp_path / "another folder")
    contents = []
    for place, seed in ((project, "1"), (other, "2")):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place.folder)
            lay_out(NETWORK)
        place.edit("params.yaml", "max_accuracy_drop: 0.02", "max_accuracy_drop: 1.0")
        place.run("python", "-m", "stages.export", PYTHONHASHSEED=seed)
        contents.append([place.read(str(file)) for file in (*FILES.values(), CARD)])
    assert contents[0] == contents[1]
    for content in contents[0]:
        texts = [content]
        if zipfile.is_zipfile(io.BytesIO(content)):
            records = zipfile.ZipFile(io.BytesIO(content))
            texts = [records.read(name) for name in records.namelist()]
        for path in (str(ROOT), str(tmp_path), torch.__path__[0], tempfile.gettempdir()):
            assert all(path.encode() not in text for text in texts), path


@pytest.mark.parametrize("damage", ["another network", "no model"])
def test_a_refused_model_leaves_the_earlier_files(
    trained: Path, monkeypatch: pytest.MonkeyPatch, damage: str
):
    for file in FILES.values():
        file.write_bytes(b"earlier")

    def damaged(classifier: Classifier) -> bytes:
        if damage == "no model":
            return b"damaged"
        torch.manual_seed(1)
        network = nn.Sequential(build(NETWORK, SHAPE, 10), nn.Softmax(dim=1)).eval()
        return write_torchscript(replace(classifier, network=network))

    forms = [replace(FORMATS[0], write=damaged), *FORMATS[1:]]
    monkeypatch.setattr(export, "FORMATS", forms)
    line = {"another network": "a probability is", "no model": "does not run"}[damage]
    with pytest.raises(UserError, match=rf"^models/model\.pth: {line}.*not exported"):
        run_stage(main)
    assert all(file.read_bytes() == b"earlier" for file in FILES.values())
    assert not SIZES.exists()
    assert sorted(path.name for path in Path("models").iterdir()) == sorted(
        ["model_weights.pth", "network.json", *(file.name for file in FILES.values())]
    )
