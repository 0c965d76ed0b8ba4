"""When `make` keeps .venv, when it makes it anew, and when it refuses to."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT, Project, Running

BASE = sys._base_executable
SCRIPTS = ("venv", "install", "alone", "site_cache")


def venv_sh(folder: Path, *arguments: str, code: int = 0) -> str:
    result = subprocess.run(
        ["sh", ROOT / "tools/venv.sh", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a .venv, made as `make install` makes it."""
    folder = tmp_path_factory.mktemp("a checkout")
    assert venv_sh(folder, "check", BASE) == ""
    assert "Making .venv with " in venv_sh(folder, "make", BASE)
    return folder


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """Something that says it is Python 3.12 of another installation."""
    return script(tmp_path / "python3.12", 'echo "3.12 /elsewhere"')


def test_a_venv_is_kept(made: Path):
    assert venv_sh(made, "check") == "usable\n"
    assert venv_sh(made, "check", BASE) == "usable\n"
    assert (
        venv_sh(made, "check", str(made / ".venv/bin/python")) == "usable\n"
    )  # while it is active
    marker = made / ".venv/marker"
    marker.touch()
    assert venv_sh(made, "make", BASE) == ""
    assert marker.exists()


def test_another_python_asks_for_another_venv(made: Path, other_python: Path):
    assert venv_sh(made, "check", str(other_python)) == ""


def test_a_moved_folder_asks_for_another_venv(made: Path, tmp_path: Path):
    here = tmp_path / "first place"
    shutil.copytree(made, here, symlinks=True)
    pip = here / ".venv/bin/pip"
    pip.write_text(pip.read_text().replace(str(made), str(here)))
    assert venv_sh(here, "check") == "usable\n"
    moved = here.rename(tmp_path / "second place")
    assert venv_sh(moved, "check") == ""
    assert "Making .venv" in venv_sh(moved, "make")
    assert venv_sh(moved, "check") == "usable\n"


@pytest.mark.parametrize(
    "text", ["exit 1", 'echo "2.07 /usr"', 'echo "3.10 /usr"', "echo SyntaxError >&2; exit 1"]
)
def test_what_is_no_python_3_11_is_one_line(tmp_path: Path, text: str):
    python = script(tmp_path / "bin/python", text)
    line = f"error: PYTHON={python}: not a Python 3.11 or newer; name one: make PYTHON=<path>\n"
    assert venv_sh(tmp_path, "make", str(python), code=1) == line
    assert venv_sh(tmp_path, "make", "/nowhere/python", code=1).startswith("error: PYTHON=/nowhere")
    assert not (tmp_path / ".venv").exists()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `make install` needs, with nothing to install."""
    folder = tmp_path / "clone"
    for name in ("Makefile", *(f"tools/{name}.sh" for name in SCRIPTS)):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy2(ROOT / name, folder / name)
    for name in ("requirements.txt", "stages/requirements.txt", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


def test_make_says_it_and_installs_nothing(clone: Path):
    result = subprocess.run(
        ["make", "install", "PYTHON=/usr/bin/false"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert result.stderr.startswith("error: PYTHON=/usr/bin/false: not a Python 3.11 or newer")
    assert "Traceback" not in result.stderr


def test_of_two_at_once_one_waits(clone: Path):
    project = Project(clone)
    runs = [Running(project, "make", "install", f"PYTHON={BASE}") for _ in range(2)]
    outputs = "".join(run.end() for run in runs)
    assert outputs.count("note: another `make install` works in this folder; waiting") == 1
    assert outputs.count("Making .venv with ") == 1
    assert (clone / ".venv/run.installed").exists()
    assert project.run("dvc", "config", "core.site_cache_dir") == f"{clone}/.dvc/site-cache\n"
