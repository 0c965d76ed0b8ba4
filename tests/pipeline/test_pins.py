"""The pins are complete, and torchvision imports beside any build of torch."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import stages
from tests.pipeline.test_rooms import listed, path_of
from tests.project import ROOT, Project

IMPORT = (
    "from stages.networks.torchvision_import import import_torchvision; import torch;"
    "torchvision = import_torchvision();"
    "declared = hasattr(torch.ops.torchvision, 'nms'); print(torchvision.__name__, declared)"
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    assert all(re.fullmatch(r"|#.*|-r \S+|[\w.-]+==[\w.]+( +#.*)?", line) for line in lines), file
    rows = [line.split("#")[0].strip() for line in lines if re.match(r"\w", line)]
    return {normal(name): version for name, version in (row.split("==") for row in rows)}


def closure(names: set[str]) -> set[str]:
    """Return these packages and all their requirements on this machine."""
    reached, pending = set(), set(names)
    while pending:
        reached.add(name := pending.pop())
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending |= {normal(requirement.name)} - reached
    return reached


FILES = {
    "stages/requirements.txt": ["stages/requirements.txt"],
    "requirements.txt": ["stages/requirements.txt", "requirements.txt"],
    "requirements-dev.txt": ["stages/requirements.txt", "requirements.txt", "requirements-dev.txt"],
}

MOBILE = "mobile/requirements.txt"  # of an environment of its own


def is_cuda(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-", "triton"))


@pytest.mark.parametrize("file", FILES)
def test_the_pins_are_complete_and_installed(file: str):
    """Of each file, together with the files that it includes."""
    pinned = {name: version for part in FILES[file] for name, version in pins(part).items()}
    # CUDA builds of torch pin their own packages, others on each platform.
    # pip comes with Python.
    needed = {name for name in closure(set(pinned)) - {"pip"} if not is_cuda(name)}
    assert needed <= set(pinned)
    for name, version in pinned.items():
        assert importlib.metadata.version(name).split("+")[0] == version


def test_no_package_is_pinned_twice():
    names = [name for part in FILES["requirements-dev.txt"] for name in pins(part)]
    assert len(names) == len(set(names))


def test_the_pins_for_phones_agree_with_the_others():
    others = {
        name: version for part in FILES["requirements.txt"] for name, version in pins(part).items()
    }
    assert {name: others.get(name, version) for name, version in pins(MOBILE).items()} == pins(
        MOBILE
    )


# Packages that torch and others use if they are installed, for messages and pictures only.
OPTIONAL = {"colorama", "pip", "psutil", "pydot", "rich"}
RUN = """
import runpy, sys
try:
    runpy.run_module(f"stages.{sys.argv[1]}", run_name="__main__")
finally:
    print(*sys.modules)
"""


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate", "export"])
def test_all_that_a_stage_imports_is_pinned_and_listed(reproduced: Project, stage: str):
    """After a real run in a process of its own, late imports included."""
    modules = reproduced.run("python", "-c", RUN, stage).splitlines()[-1].split()
    owners = importlib.metadata.packages_distributions()
    used = {normal(owner) for module in modules for owner in owners.get(module, [])}
    assert "numpy" in used
    others = {name for name in used if not is_cuda(name)} - set(pins("stages/requirements.txt"))
    assert others <= OPTIONAL
    unused = {"prepare": {"onnx"}, "train": {"torchvision", "scikit-learn", "scipy", "onnx"}}
    assert used.isdisjoint(unused.get(stage, {"torchvision", "pooch"}) | {"dvc"})
    ours = {path_of(module) for module in modules if module.partition(".")[0] == "stages"}
    # Of the kernels of one architecture, a process imports its own.
    other = "kernels_x86_64.py" if stages.ARCHITECTURE == stages.ARM64 else "kernels_arm64.py"
    assert ours == {path for path in listed(stage) if path.name != other}


def imported(folder: Path) -> subprocess.CompletedProcess:
    """Import torchvision as prepare does; the packages in a folder come before those of Python.

    Those beside `stages` come after them.
    """
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_torchvision_imports_beside_this_torch(tmp_path: Path):
    result = imported(tmp_path)
    assert result.stdout == "torchvision True\n", result.stderr


def test_a_torchvision_that_matches_is_imported_untouched(tmp_path: Path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").touch()
    assert imported(tmp_path).stdout == "torchvision False\n"


def test_any_other_error_of_torchvision_is_reported(tmp_path: Path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("raise RuntimeError('operator is broken')")
    result = imported(tmp_path)
    assert result.returncode != 0
    assert result.stderr.endswith("RuntimeError: operator is broken\n")
