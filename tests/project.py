"""Copies of this project as real Git and DVC repositories."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.working_tree import copy_working_tree

ROOT = Path(__file__).parents[1]
MIRROR = os.environ.get("MNIST_MIRROR", "")
if MIRROR and "://" not in MIRROR:
    MIRROR = os.environ["MNIST_MIRROR"] = str(Path(MIRROR).absolute())  # the tests change folders

needs_mnist = pytest.mark.skipif(
    not MIRROR, reason="MNIST_MIRROR is not set: no folder or server to take the real MNIST from"
)


# The values of this repository's params.yaml, from which the tests start. Users commit others.
CHOICES = {
    "dataset": "mnist",
    "validation_size": "0.1",
    "seed": "0",
    "test_share": "",
    "layout": "",
    "size": "",
    "skip_unreadable": "",
    "recipe": "tutorial",
    "device": "cpu",
    "initial_weights": "weights/none",
}


def default_params() -> str:
    """Return params.yaml with these choices."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for key, value in CHOICES.items():
        text = re.sub(rf"^(  {key}: ?)[^\s#]*", rf"\g<1>{value}", text, flags=re.MULTILINE)
    return text


class Project:
    """A copy of this project's files as a Git and DVC repository of its own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, *command: str, fails: bool | None = False, **environment: str) -> str:
        """Run a command in the project and return its output, stdout and stderr together.

        It must succeed, or fail if `fails`; None allows both.
        """
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
        assert fails is None or (result.returncode != 0) == fails, result.stdout
        return result.stdout

    def repro(self, *arguments: str, **environment: str) -> list[str]:
        """Run `dvc repro` and return the names of the executed stages."""
        return executed(self.run("dvc", "repro", *arguments, **environment))

    def edit(self, file: str, old: str, new: str) -> None:
        change(self.folder / file, old, new)

    def read(self, file: str) -> bytes:
        return (self.folder / file).read_bytes()

    def git_status(self) -> str:
        return self.run("git", "status", "--porcelain")


class Running:
    """A command in a project, on a host of its own (a network namespace) if one is named.

    It leads a process group, and its output goes to a file.
    """

    def __init__(self, project: Project, *command: str, host: str = "", **environment: str):
        self.log = project.folder.parent / f"log {time.monotonic_ns()}"
        on_host = ("ip", "netns", "exec", host) if host else ()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*on_host, *command],
                cwd=project.folder,
                env=clean_environment(project.folder.parent) | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a text so many times."""
        deadline = time.monotonic() + 60
        while self.output().count(text) < times:
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def end(self, fails: bool | None = False) -> str:
        """Wait for the end, as in `Project.run`; return the output."""
        returned = self.process.wait(timeout=120)
        assert fails is None or (returned != 0) == fails, (returned, self.output())
        return self.output()

    def children(self) -> list[int]:
        """Return the processes that this one has started, in their order."""
        result = subprocess.run(
            ["pgrep", "--parent", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        return sorted(map(int, result.stdout.split()))


def fresh_clone(folder: Path) -> Project:
    """Return a copy of the working tree with the choices above, in which nothing has run yet."""
    copy_working_tree(folder)
    project = Project(folder)
    if default_params() != project.read("params.yaml").decode():
        (folder / "params.yaml").write_text(default_params())
        project.run("git", "commit", "--quiet", "--all", "--message=Choose MNIST")
    return project


def executed(output: str) -> list[str]:
    """Return the names of the stages that a DVC command has run, by its output."""
    return re.findall(r"^Running stage '(.+)':", output, re.MULTILINE)


def clean_environment(folder: Path) -> dict[str, str]:
    """Return this process's environment without a mirror, and without the user's settings and caches.

    Git sets GIT_DIR and others in its hooks: with them, a test run by a hook would work on the
    user's own repository. By MAKELEVEL and MAKEFLAGS, a make of a test would print that it is one of
    `make test`.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if key != "MNIST_MIRROR" and not key.startswith(("GIT_", "DVC_", "MAKE"))
    }
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / "cache"),
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
    """Make this environment that of a project, as if `make install` had installed it."""
    environment = project.folder / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    project.run("make", "--touch", "install")


def copy_of(project: Project, folder: Path) -> Project:
    shutil.copytree(project.folder, folder, symlinks=True)
    return Project(folder)


def change(path: Path, old: str, new: str) -> None:
    """Replace the one occurrence of `old` in a file.

    Recipes of params.yaml may repeat each other: of several, the first of `tutorial` is replaced.
    """
    text = path.read_text()
    start = text.find("\n  tutorial:\n") if text.count(old) > 1 else 0
    assert start >= 0 and old in text[start:], f"{old!r} is not once in {path}"
    replace(path, text[:start] + text[start:].replace(old, new, 1))


def replace(path: Path, text: str) -> None:
    """Write a file as most editors do: who reads it meanwhile sees all of the old or all of the new."""
    written = path.with_name(f".{path.name}.swp")  # .dvcignore has it
    written.write_text(text)
    written.chmod(path.stat().st_mode)
    written.replace(path)
