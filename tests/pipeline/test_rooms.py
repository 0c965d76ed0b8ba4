"""A stage depends on rooms that it reads whole, and on no other code."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.project import ROOT, default_params

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load(default_params())
MODULES = sorted((ROOT / "stages").rglob("*.py"))
COMMON = ["stages/__init__.py", "stages/requirements.txt"]


def path_of(module: str) -> Path | None:
    """Return the file of a module of ours, and None for any other."""
    base = ROOT / module.replace(".", "/")
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    return next((path for path in candidates if path in MODULES), None)


@cache
def imports(path: Path) -> set[Path]:
    """Return the files of ours that a file imports, anywhere in it, for type checkers too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                assert node.level == 0, f"{path} has a relative import"
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    # A package's __init__.py is executed before its modules.
    names |= {name.rpartition(".")[0] for name in names if path_of(name)}
    return {file for name in names if (file := path_of(name))}


@cache
def all_imports(stage: str) -> set[Path]:
    """Return the files of ours that a stage imports, directly or not."""
    reached, pending = set(), {ROOT / f"stages/{stage}.py", ROOT / "stages/__init__.py"}
    while pending:
        reached.add(path := pending.pop())
        pending |= imports(path) - reached
    return reached


def listed(stage: str) -> set[Path]:
    """Return the files of ours that a stage lists in dvc.yaml, those of its rooms included."""
    deps = [ROOT / dep for dep in PIPELINE[stage]["deps"] if dep.startswith("stages/")]
    assert all(dep.exists() for dep in deps)
    return {path for path in MODULES if any(path == dep or dep in path.parents for dep in deps)}


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_lists_exactly_the_rooms_that_it_imports(stage: str):
    assert all_imports(stage) == listed(stage)
    code = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("stages/")]
    rooms = [dep for dep in code if (ROOT / dep).is_dir()]
    assert code == [*COMMON, f"stages/{stage}.py", *rooms]


def test_every_module_belongs_to_a_stage():
    assert set().union(*map(listed, PIPELINE)) == set(MODULES)


def test_stage_script_and_section_have_one_name():
    assert list(PIPELINE) == ["prepare", "train", "evaluate", "export"]
    assert sorted(PARAMS) == sorted([*PIPELINE, "recipes"])
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(PIPELINE)
    for name, stage in PIPELINE.items():
        assert stage["cmd"] == f"exec python -E -m stages.{name}"
        more = ["recipes.${train.recipe}"] if name == "train" else []
        assert stage["params"] == [name, *more]


IMPORT = """
import os, sys, importlib
before = dict(os.environ)
import stages
set_by_stages = {key for key in os.environ if os.environ[key] != before.get(key)}
events = []
def watch(event, arguments):
    if event in ("subprocess.Popen", "socket.connect", "os.mkdir", "os.remove", "os.rename"):
        events.append((event, arguments))
    if event == "open":
        path, _, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or not str(path).endswith((".py", ".pyc")):
            events.append((event, arguments))
for library in ("torch", "numpy", "sklearn.metrics", "scipy.stats", "PIL.Image", "pooch", "requests",
                "pydantic", "ruamel.yaml", "safetensors.numpy", "torch.distributed.run"):
    importlib.import_module(library)
sys.modules["pydantic"].create_model("First")  # at which it looks for plug-ins
state = dict(os.environ), list(sys.path)
sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(sorted(set_by_stages))
print(events, state == (dict(os.environ), list(sys.path)))
"""


def test_importing_a_module_only_configures_computation():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
    ]
    # -B: Python writes no bytecode.
    result = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT, *names],
        cwd=ROOT,
        env={"PATH": "/usr/bin", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    variables, rest = result.stdout.splitlines()
    assert "OMP_NUM_THREADS" in variables
    assert rest == "[] True"
    assert result.stderr == ""
