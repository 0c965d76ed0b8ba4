"""When `make` keeps .venv, when it makes it again, and when it refuses to."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT, Project, Running

BASE = sys._base_executable
SCRIPTS = ("venv", "install", "folder_lock", "site_cache")


def venv_sh(folder: Path, *arguments: str, code: int = 0) -> str:
    command = ["sh", ROOT / "tools/venv.sh", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a .venv, made as `make install` makes it."""
    folder = tmp_path_factory.mktemp("a checkout")
    assert venv_sh(folder, "check", BASE) == ""
    assert "Making .venv with " in venv_sh(folder, "make", BASE)
    return folder


def test_a_usable_venv_is_kept(made: Path):
    for python in ([], [BASE], [str(made / ".venv/bin/python")]):
        assert venv_sh(made, "check", *python) == "usable\n"
    (made / ".venv/marker").touch()
    assert venv_sh(made, "make", BASE) == ""
    assert (made / ".venv/marker").exists()


def test_another_python_needs_another_venv(made: Path, tmp_path: Path):
    other = script(tmp_path / "python3.12", 'echo "3.12 /elsewhere"')
    assert venv_sh(made, "check", other) == ""


def test_a_moved_folder_needs_another_venv(made: Path, tmp_path: Path):
    moved = tmp_path / "another place"
    shutil.copytree(made, moved, symlinks=True)
    made_scripts = made.rename(made.with_name("gone"))
    assert venv_sh(moved, "check") == ""
    made_scripts.rename(made)
    pip = moved / ".venv/bin/pip"
    pip.write_text(pip.read_text().replace(str(made), str(moved)))
    assert venv_sh(moved, "check") == "usable\n"


@pytest.mark.parametrize("text", ["exit 1", 'echo "2.07 /usr"', 'echo "3.10 /usr"'])
def test_an_unusable_python_is_one_line(tmp_path: Path, text: str):
    python = script(tmp_path / "python", text)
    for path in (python, "/nowhere/python"):
        line = f"error: PYTHON={path}: not a Python 3.11 or newer; name one: make install PYTHON=<path>"
        assert venv_sh(tmp_path, "make", path, code=1) == f"{line}\n"
    assert not (tmp_path / ".venv").exists()


def test_of_two_installations_one_waits(tmp_path: Path):
    clone = tmp_path / "clone"  # with nothing to install
    for name in ("Makefile", *(f"tools/{name}.sh" for name in SCRIPTS)):
        (clone / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy2(ROOT / name, clone / name)
    for name in ("requirements.txt", "stages/requirements.txt", ".dvc/config"):
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).touch()
    project = Project(clone)
    output = project.run("make", "install", "PYTHON=/usr/bin/false", fails=True)
    assert output.startswith("error: PYTHON=/usr/bin/false: not a Python 3.11 or newer")
    runs = [Running(project, "make", "install", f"PYTHON={BASE}") for _ in range(2)]
    outputs = "".join(run.end() for run in runs)
    assert outputs.count("note: another `make install` works in this folder; waiting") == 1
    assert outputs.count("Making .venv with ") == 1
    assert project.run("dvc", "config", "core.site_cache_dir") == f"{clone}/.dvc/site-cache\n"
