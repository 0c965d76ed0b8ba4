"""The pins are complete, and torchvision imports beside any build of torch."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Project
from packaging.requirements import Requirement

IMPORT = (
    "import sys; sys.path[:0] = ['stages', *sys.argv[1:]]; import torch;"
    "from common.torchvision_import import import_datasets; datasets = import_datasets();"
    "declared = hasattr(torch.ops.torchvision, 'nms'); print(datasets.__name__, declared)"
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    rows = [line for line in lines if line and not line.startswith("-r ")]
    assert all(row.count("==") == 1 for row in rows), f"a pin in {file} is not exact"
    return {normal(name): version for name, version in (row.split("==") for row in rows)}


def closure(names: set[str]) -> set[str]:
    """Return these packages and all that they require, on this machine."""
    found, left = set(), set(names)
    while left:
        found.add(name := left.pop())
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left |= {normal(requirement.name)} - found
    return found


@pytest.mark.parametrize(
    "files", [["requirements.txt"], ["requirements.txt", "requirements-dev.txt"]]
)
def test_the_pins_are_complete_and_are_what_is_installed(files: list[str]):
    pinned = {name: version for file in files for name, version in pins(file).items()}
    # CUDA builds of torch pin their own packages, others on each platform.
    needed = {n for n in closure(set(pinned)) if not n.startswith(("nvidia-", "cuda-", "triton"))}
    assert needed <= set(pinned)
    for name, version in pinned.items():
        assert importlib.metadata.version(name).split("+")[0] == version


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate", "export"])
def test_a_stage_refuses_to_run_outside_the_environment(stage: str):
    command = [sys.executable, "-S", f"stages/{stage}.py"]  # -S: a Python with no packages
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert re.fullmatch(
        r"error: requirements\.txt: torch==\S+, but in \S+ it is not installed; activate .+\n",
        result.stderr,
    )


def test_a_stage_refuses_other_versions_than_those_it_is_filed_under(project: Project):
    project.edit("requirements.txt", "tqdm==", "tqdm==1.2.")
    output = project.run("python", "stages/evaluate.py", fails=True)
    assert output.startswith("error: requirements.txt: tqdm==1.2.")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("stage", "unused"),
    [
        ("prepare", {"dvc"}),
        ("train", {"dvc", "torchvision", "sklearn", "scipy"}),
        ("evaluate", {"dvc", "torchvision", "sklearn", "scipy"}),
        ("export", {"dvc", "torchvision", "sklearn", "scipy"}),
    ],
)
def test_a_stage_imports_only_what_it_uses(stage: str, unused: set[str]):
    code = f"import sys; sys.path.insert(0, 'stages'); import {stage}; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "torch" in modules
    assert unused.isdisjoint(modules)


def imported(*paths: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_torchvision_imports_beside_this_torch():
    result = imported()
    assert result.stdout == "torchvision.datasets True\n", result.stderr


def test_a_torchvision_that_matches_is_imported_untouched(tmp_path: Path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").touch()
    (tmp_path / "torchvision/datasets.py").touch()
    assert imported(tmp_path).stdout == "torchvision.datasets False\n"


def test_a_torchvision_that_is_broken_otherwise_is_not_mended(tmp_path: Path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("raise RuntimeError('operator is broken')")
    result = imported(tmp_path)
    assert result.returncode != 0
    assert result.stderr.endswith("RuntimeError: operator is broken\n")
