"""A network, an augmentation and metrics are added as the pages show, and run as any other."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from stages.exporting.formats import FORMATS
from tests.project import ROOT, Project, change, copy_of

pytestmark = pytest.mark.slow

WEIGHTS = "models/model_weights.pth"
FLAGS = re.MULTILINE | re.DOTALL


def examples() -> dict[str, str]:
    """Return the examples of the pages by the file that each is for."""
    pages = [ROOT / "CONTRIBUTING.md", ROOT / "docs/your-own-network.md"]
    text = "".join(page.read_text() for page in pages)
    return dict(re.findall(r"<!-- example: (\S+) -->.*?```\w+\n(.*?)```", text, re.DOTALL))


def add_as_shown(project: Path) -> None:
    code = examples()
    (project / "stages/networks/residual.py").write_text(code["stages/networks/residual.py"])
    lines = code["stages/networks/registry.py"].splitlines()
    registry = project / "stages/networks/registry.py"
    text = registry.read_text()
    text = text.replace(
        "from stages.networks.feed_forward", f"{lines[0]}\nfrom stages.networks.feed_forward"
    )
    union = "\n".join(lines[2:])
    registry.write_text(re.sub(r"^Network = Annotated\[.*?\]$", union, text, flags=FLAGS))
    augmentations = project / "stages/training/augmentations.py"
    example = code["stages/training/augmentations.py"]
    union = re.search(r"^Augmentation = Annotated\[.*?\]$", augmentations.read_text(), FLAGS)[0]
    change(augmentations, union, example)
    change(project / "params.yaml", "\nevaluate:\n", f"\n{code['params.yaml']}\nevaluate:\n")
    change(
        project / "stages/training/metrics.py",
        'METRICS = {"accuracy": correct}',
        'METRICS = {"accuracy": correct, "confidence": lambda logits, _: logits.softmax(1).amax(1)}',
    )
    change(
        project / "stages/metrics/scores.py",
        '"macro_f1": ',
        '"misses": int((~correct(logits, labels)).sum()),\n        "macro_f1": ',
    )
    loop = project / "stages/training/loop.py"
    text = loop.read_text()
    place = re.search(r"def before_step.*\n    \"\"\".*\"\"\"\n", text)[0]
    clip = "    nn.utils.clip_grad_norm_(parameters, max_norm=1.0)\n"
    change(loop, place, place + clip)


@pytest.fixture(scope="module")
def extended(
    on_digits: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, str]:
    """A project with all of it, after a `dvc repro` on the drawings of this repository."""
    project = copy_of(on_digits[0], tmp_path_factory.mktemp("extended") / "project")
    add_as_shown(project.folder)
    path = project.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["prepare"]["dataset"] = "symbols"
    params["train"]["recipe"] = "residual"
    params["recipes"]["residual"]["augmentation"] = [{"kind": "invert", "probability": 0.1}]
    path.write_text(yaml.safe_dump(params))
    return project, project.run("dvc", "repro")


def test_it_is_trained_evaluated_and_exported_in_all_formats(extended: tuple[Project, str]):
    project, output = extended
    for form in FORMATS:
        assert f"{form.file}: " in output
    record = json.loads(project.read("models/network.json"))
    assert record["network"]["kind"] == "residual"
    results = json.loads(project.read("metrics/evaluate.json"))
    assert results["accuracy"] > 0.5
    assert results["misses"] == round((1 - results["accuracy"]) * results["images"])
    last = json.loads(project.read("metrics/train.json"))["validation"]
    assert 0.2 < last["confidence"] <= 1
    rows = list(csv.DictReader(project.read("metrics/epochs.csv").decode().splitlines()))
    assert float(rows[-1]["validation_confidence"]) == last["confidence"]
    project.run("python", "-m", "predict", "data/symbols/arrow/00.png")


def test_two_processes_give_the_bytes_of_one(extended: tuple[Project, str], tmp_path: Path):
    project = copy_of(extended[0], tmp_path / "project")
    expected = project.read(WEIGHTS)
    project.run("python", "-m", "stages.train", PET_NPROC_PER_NODE="2")
    assert project.read(WEIGHTS) == expected


def test_the_tests_of_all_recipes_and_metrics_hold(project: Project):
    """But those of large networks, which an addition does not change."""
    add_as_shown(project.folder)
    names = "exporting/test_formats.py metrics networks runtime/test_config.py test_evaluate.py "
    names += "test_train.py training"
    tests = [f"tests/{name}" for name in names.split()]
    pytest = ("python", "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow")
    project.run(*pytest, "-k", "not finetune and not thorough and not photo", *tests)
