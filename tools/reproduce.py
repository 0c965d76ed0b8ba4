"""Run the pipeline of the last commit anew, and say whether it gives the committed bytes.

`make reproduce` clones the repository into a temporary folder, runs all stages there, whatever is in
DVC's caches, and compares the checksums of all files that they read and wrote with those in the
committed dvc.lock.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml

from tools.machine import machine
from tools.working_tree import ROOT

LOCK = "dvc.lock"


STAGES = ("prepare", "train", "evaluate", "export")


class Difference(NamedTuple):
    """What the first stage that differs read, and wrote, otherwise than it was committed."""

    stage: str
    read: list[str]  # lines, of a file or parameters each
    written: list[str]


def difference(committed: str, found: str) -> Difference | None:
    """Compare two dvc.lock files."""
    stages, stages_found = (yaml.safe_load(text).get("stages", {}) for text in (committed, found))
    for name in STAGES:
        before, after = (
            {
                (kind, file["path"]): file["md5"]
                for kind in ("deps", "outs")
                for file in stage.get(kind, [])
            }
            | {("deps", "params.yaml"): stage.get("params")}
            for stage in (stages.get(name, {}), stages_found.get(name, {}))
        )
        lines: dict[str, list[str]] = {"deps": [], "outs": []}
        for kind, path in before | after:
            one, other = before.get((kind, path)), after.get((kind, path))
            if one != other:
                lines[kind].append(f"  {path}: {one} committed, {other} here")
        if lines["deps"] or lines["outs"]:
            return Difference(name, lines["deps"], lines["outs"])
    return None


def output_of(folder: Path, *command: str) -> str:
    try:
        return subprocess.run(
            command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    except subprocess.CalledProcessError:
        sys.exit(f"error: `{' '.join(command)}` failed (see above); nothing is compared")


def main() -> None:
    commit = output_of(ROOT, "git", "log", "-1", "--format=%h (%s)").strip()
    print(f"Running {commit} in a temporary clone.", flush=True)
    if output_of(ROOT, "git", "status", "--porcelain"):
        print("What is changed in the workspace, and not committed, does not count.", flush=True)
    environment = dict(os.environ)
    mirror = environment.get("MNIST_MIRROR", "")
    if mirror and "://" not in mirror:
        environment["MNIST_MIRROR"] = str(Path(mirror).absolute())
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name, "clone")
        # The clone has no .dvc/config.local, and DVC's default is a folder for all users.
        if not environment.get("DVC_SITE_CACHE_DIR"):
            environment["DVC_SITE_CACHE_DIR"] = str(Path(name, "site-cache"))
        output_of(ROOT, "git", "clone", "--quiet", str(ROOT), str(clone))
        if not (clone / LOCK).exists():
            sys.exit(
                f"error: {LOCK} is not committed, so there is nothing to compare; run `dvc repro`"
            )
        committed = (clone / LOCK).read_text()
        command = ["dvc", "repro", "--force", "--no-run-cache"]
        if subprocess.run(command, cwd=clone, env=environment, check=False).returncode:
            sys.exit("error: the pipeline did not run to its end (see above); nothing is compared")
        found = difference(committed, (clone / LOCK).read_text())
        # Metrics and tables are in Git, and may be others than dvc.lock says.
        changed = output_of(clone, "git", "status", "--porcelain").splitlines()
    if found and found.read:
        print(
            f"\nNOT COMPARABLE. {LOCK} was committed after a run of `{found.stage}` with other inputs:"
        )
        print("\n".join(found.read))
        print("Run `dvc repro` and commit its results first.")
    elif found:
        print("\nOTHER BYTES. Please send these lines with a bug report.")
        print(f"The first stage that differs is `{found.stage}`. It wrote:")
        print("\n".join(found.written))
        for key, value in machine().items():
            print(f"{key}: {value}")
    elif changed:
        print(f"\nNOT COMPARABLE. These committed files are not those of the committed {LOCK}:")
        print("\n".join(changed))
        print("Run `dvc repro` and commit its results first.")
    else:
        print(f"\nSame bytes: each file that a stage of {commit} writes is as it was committed.")
        return
    sys.exit(1)


if __name__ == "__main__":
    main()
