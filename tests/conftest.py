"""Projects in the states that tests start from."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.project import (
    ROOT,
    Project,
    copy_of,
    default_params,
    fresh_clone,
    lend_environment,
)
from tests.troubleshooting import assert_explained


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that wait for a whole run last, so that one worker can begin with the others."""
    items.sort(key=lambda item: "on_digits" in getattr(item, "fixturenames", ()))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh clone: nothing has run yet."""
    return fresh_clone(tmp_path / "project")


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into an empty folder, where stages find no files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def params_file(in_empty_folder: Path) -> Path:
    """The project's params.yaml, and what it names besides data, in the current folder."""
    path = in_empty_folder / "params.yaml"
    path.write_text(default_params())
    for described in (ROOT / "data").glob("*/dataset.yaml"):
        target = in_empty_folder / described.relative_to(ROOT)
        target.parent.mkdir(parents=True)
        shutil.copy2(described, target)
    shutil.copytree(ROOT / "weights", in_empty_folder / "weights")
    return path


@pytest.fixture
def unclipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients as they were computed, also where CONTRIBUTING.md's line in the loop clips them."""
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        monkeypatch.setattr(f"torch.nn.utils.{name}", lambda *_, **__: None)


@pytest.fixture
def explained() -> Callable[[str], None]:
    """Return a function that fails unless docs/troubleshooting.md explains an output."""
    return assert_explained


@pytest.fixture(scope="session")
def on_digits(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Project, str]:
    """A fresh clone after `make run` without MNIST, and the output.

    It runs once for all workers of pytest-xdist; tests must not change it. It and its copies are in
    folders whose names have spaces and accents.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "Läuft mit Ziffern é"
    with FileLock(f"{folder}.lock"):
        project, log = Project(folder / "project"), folder / "make run.log"
        if not log.exists():
            lend_environment(fresh_clone(project.folder))
            log.write_text(project.run("make", "run", MNIST_MIRROR="/nowhere"))
    return project, log.read_text()


@pytest.fixture(scope="session")
def model_file(on_digits: tuple[Project, str]) -> Path:
    """The exported model of that project, trained on scikit-learn's digits."""
    return on_digits[0].folder / "models/model.onnx"


@pytest.fixture
def reproduced(on_digits: tuple[Project, str], tmp_path: Path) -> Project:
    """A copy of that project, which a test may change."""
    return copy_of(on_digits[0], tmp_path / "Ünsere Bilder é")


@pytest.fixture
def committed(reproduced: Project) -> Project:
    """The same, with its results committed on main."""
    reproduced.run("git", "commit", "--quiet", "--all", "--message=Run on the digits")
    return reproduced
