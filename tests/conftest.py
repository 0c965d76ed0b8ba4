"""Real Git and DVC repositories in temporary folders, and the real MNIST where it is to be had."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.arrays import Split, load_split, save_split

import numpy as np
import pytest
import torch
from filelock import FileLock
from playwright.sync_api import Browser, sync_playwright
from working_tree import copy_working_tree

ROOT = Path(__file__).parents[1]
MIRROR = os.environ.get("MNIST_MIRROR", "")
if MIRROR and "://" not in MIRROR:
    MIRROR = os.environ["MNIST_MIRROR"] = str(Path(MIRROR).absolute())  # the tests change folders

needs_mnist = pytest.mark.skipif(
    not MIRROR, reason="MNIST_MIRROR is not set: no folder or server to take the real MNIST from"
)


DATASET = {"name": "of a test", "sha256": "0" * 64}
TRAINING = {"dataset": DATASET, "images": 0, "recipe": "train", "parameters": {}}


class Project:
    """A copy of this project's files as a Git and DVC repository of its own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, *command: str, fails: bool = False, **environment: str) -> str:
        """Run a command in the project and return what it printed, stdout and stderr together."""
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=clean_environment(self.folder.parent) | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (result.returncode != 0) == fails, result.stdout
        return result.stdout

    def repro(self, *arguments: str, **environment: str) -> list[str]:
        """Run `dvc repro` and return the names of the stages that it executed."""
        return executed(self.run("dvc", "repro", *arguments, **environment))

    def edit(self, file: str, old: str, new: str) -> None:
        change(self.folder / file, old, new)

    def read(self, file: str) -> bytes:
        return (self.folder / file).read_bytes()

    def git_status(self) -> str:
        return self.run("git", "status", "--porcelain")


def executed(output: str) -> list[str]:
    """Return the names of the stages that a DVC command says it has run."""
    return re.findall(r"^Running stage '(.+)':", output, re.MULTILINE)


def clean_environment(folder: Path) -> dict[str, str]:
    """This process's environment without a mirror, and without the user's Git and DVC settings.

    Git sets GIT_DIR and others in its hooks: with them, a test run by a hook would work on the
    user's own repository.
    """
    ours = {
        key: value
        for key, value in os.environ.items()
        if key != "MNIST_MIRROR" and not key.startswith(("GIT_", "DVC_"))
    }
    return ours | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.com",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.com",
        "DVC_GLOBAL_CONFIG_DIR": str(folder / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(folder / "dvc-system"),
        "DVC_SITE_CACHE_DIR": str(folder / "dvc-site"),
    }


def lend_environment(project: Project) -> None:
    """Let `make` find this very environment installed in a project."""
    environment = project.folder / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    (environment / "run.installed").touch()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh clone: nothing has run yet."""
    copy_working_tree(tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, where the stages find no file and leave theirs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def split_of(images: torch.Tensor, labels: torch.Tensor) -> Split:
    """Store images uint8 [N, 28, 28] and labels, any int [N], and open them; no file is left."""
    with tempfile.TemporaryDirectory() as name:
        save_split("test", images.numpy(), labels.numpy().astype(np.uint8), DATASET, Path(name))
        return load_split("test", Path(name))


@pytest.fixture
def params_file(in_empty_folder: Path) -> Path:
    """The project's params.yaml, alone in the folder in which we stand."""
    path = in_empty_folder / "params.yaml"
    shutil.copy2(ROOT / path.name, path)
    return path


def change(path: Path, old: str, new: str) -> None:
    """Replace the one occurrence of `old` in a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} is not once in {path}"
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="session")
def on_digits(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Project, str]:
    """A fresh clone after `make run` where MNIST cannot be had, and what that printed.

    It is run once for all workers of pytest-xdist, and is only to be read.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "on digits"
    with FileLock(f"{folder}.lock"):
        project, log = Project(folder / "project"), folder / "make run.log"
        if not log.exists():
            copy_working_tree(project.folder)
            lend_environment(project)
            log.write_text(project.run("make", "run", MNIST_MIRROR="/nowhere"))
    return project, log.read_text()


@pytest.fixture(scope="session")
def model_file(on_digits: tuple[Project, str]) -> Path:
    """The exported model of that project, which knows scikit-learn's digits."""
    return on_digits[0].folder / "models/model.onnx"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window.

    Of one module: as long as it is open, Playwright's event loop runs, and no other may be started.
    """
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (.ci/install-packages installs it from Debian)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def copy_of(project: Project, folder: Path) -> Project:
    shutil.copytree(project.folder, folder, symlinks=True)
    return Project(folder)


@pytest.fixture
def reproduced(on_digits: tuple[Project, str], tmp_path: Path) -> Project:
    """A project that has run on the embedded digits, in a state of its own."""
    return copy_of(on_digits[0], tmp_path / "project")


@pytest.fixture
def committed(reproduced: Project) -> Project:
    """The same, with its results committed on main."""
    reproduced.run("git", "commit", "--quiet", "--all", "--message=Run on the digits")
    return reproduced
