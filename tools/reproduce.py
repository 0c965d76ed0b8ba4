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

import yaml

from tools.machine import machine
from tools.working_tree import ROOT

LOCK = "dvc.lock"


def differences(committed: str, found: str) -> list[str]:
    """Compare two dvc.lock files; return lines on the first stage that differs, or none.

    One line names the stage, each other a file that it read or wrote, and both checksums. A stage
    comes after those whose files it reads.
    """
    stages, stages_found = (yaml.safe_load(text)["stages"] for text in (committed, found))
    for name in ("prepare", "train", "evaluate", "export"):
        before, after = (
            {
                f"{verb} {file['path']}": file["md5"]
                for verb, files in (("reads", "deps"), ("writes", "outs"))
                for file in stage[files]
            }
            for stage in (stages[name], stages_found[name])
        )
        lines = [
            f"  {key}: {before.get(key)} committed, {after.get(key)} here"
            for key in before | after
            if before.get(key) != after.get(key)
        ]
        if lines:
            return [f"The stage {name} is the first that differs. It", *lines]
    return []


def output_of(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


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
        output_of(ROOT, "git", "clone", "--quiet", str(ROOT), str(clone))
        committed = (clone / LOCK).read_text()
        command = ["dvc", "repro", "--force", "--no-run-cache"]
        if subprocess.run(command, cwd=clone, env=environment, check=False).returncode:
            sys.exit(
                "error: the pipeline did not run to its end (see above), so nothing is compared"
            )
        lines = differences(committed, (clone / LOCK).read_text())
    if not lines:
        print(f"\nSame bytes: each file that a stage of {commit} writes is as it was committed.")
        return
    print("\nOTHER BYTES. Please send these lines with a bug report.")
    print("\n".join(lines))
    for key, value in machine().items():
        print(f"{key}: {value}")
    sys.exit(1)


if __name__ == "__main__":
    main()
