"""Copies of the working tree for the tests and the benchmark, each a Git repository of its own."""

import shutil
import subprocess
from collections.abc import Container
from pathlib import Path

ROOT = Path(__file__).parents[1]


def working_tree_files() -> list[str]:
    """Return the paths below ROOT of the files that Git tracks or would track."""
    listing = _git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return [name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def copy_working_tree(folder: Path, without: Container[str] = ()) -> None:
    """Copy the files that Git tracks or would track, except `without`, and commit them there."""
    for name in working_tree_files():
        if name not in without:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", "--all")
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    _git(folder, *who, "commit", "--quiet", "--message=Start")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
