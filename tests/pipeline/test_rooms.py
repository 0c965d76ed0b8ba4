"""A stage depends on rooms that it reads whole, and on no other code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.project import ROOT
from tools.working_tree import working_tree_files

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
MODULES = sorted((ROOT / "stages").rglob("*.py"))
EMPTY = {path for path in MODULES if path.name == "__init__.py" and not path.read_text()}


def path_of(module: str) -> Path | None:
    """Return the file of a module of ours, and None for any other."""
    base = ROOT / module.replace(".", "/")
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    return next((path for path in candidates if path in MODULES), None)


def imports(path: Path) -> set[Path]:
    """Return the files of ours that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                assert node.level == 0, f"{path} has a relative import"
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {file for name in names if (file := path_of(name))}


def all_imports(stage: str) -> set[Path]:
    found, left = set(), {ROOT / f"stages/{stage}.py", ROOT / "stages/__init__.py"}
    while left:
        found.add(path := left.pop())
        left |= imports(path) - found
    return found


def listed(stage: str) -> set[Path]:
    """Return the files of ours that a stage lists in dvc.yaml, those of its rooms included."""
    deps = [ROOT / dep for dep in PIPELINE[stage]["deps"] if dep.startswith("stages/")]
    assert all(dep.exists() for dep in deps)
    return {path for path in MODULES if any(path == dep or dep in path.parents for dep in deps)}


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_lists_what_it_imports_and_imports_what_it_lists(stage: str):
    assert all_imports(stage) - EMPTY == listed(stage) - EMPTY
    assert "stages/requirements.txt" in PIPELINE[stage]["deps"]


@pytest.mark.parametrize("stage", PIPELINE)
def test_rooms_are_listed_whole(stage: str):
    """Not module by module: of the code, only the stage's own file stands in dvc.yaml by its name."""
    files = [dep for dep in PIPELINE[stage]["deps"] if re.fullmatch(r"stages/.*\.py", dep)]
    assert files == ["stages/__init__.py", f"stages/{stage}.py"]


def test_every_module_belongs_to_a_stage():
    assert set().union(*(listed(stage) for stage in PIPELINE)) == set(MODULES)


def test_stage_script_and_section_have_one_name():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert list(PIPELINE) == ["prepare", "train", "evaluate", "export"]
    assert sorted(params) == sorted([*PIPELINE, "recipes"])
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(PIPELINE)
    for name, stage in PIPELINE.items():
        assert stage["cmd"] == f"python -m stages.{name}"
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
                "pydantic", "yaml", "safetensors.numpy", "torch.distributed.launcher.api"):
    importlib.import_module(library)
sys.modules["pydantic"].create_model("First")  # at which it looks for plug-ins
environment = dict(os.environ)
sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
environment_now = dict(os.environ)
print(sorted(set_by_stages))
print(events, environment_now == environment)
"""


def test_importing_a_module_does_nothing_but_say_how_to_compute():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
    ]
    # -B: Python's own cache of bytecode is not meant.
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


def test_nothing_changes_where_python_looks_for_modules():
    tricks = re.compile("sys" + r"\.path\b|PYTHON" + "PATH|python" + "path")
    for name in working_tree_files():
        path = ROOT / name
        if path.suffix in (".py", ".toml", ".yml", ".yaml", ".sh", ""):
            text = path.read_text(errors="ignore")
            assert not tricks.search(text), name
