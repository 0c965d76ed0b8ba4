"""`make reproduce`: run the last commit again, and compare all bytes with the committed ones.

All stages run in a temporary clone, on data from Git and of `dvc add`; nothing else comes from DVC's
caches. dvc.lock has the checksums of all files that they read and write; metrics and tables are in Git
themselves. Results that were committed on x86-64 differ on Arm64 in their last digits: there, prepared
data is compared, and short runs with their checksums in tests/pipeline/digests-arm64.json.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tools.machine import machine
from tools.output import run_tool
from tools.working_tree import ROOT

DIFFERENT = """
NOT THE SAME BYTES, see above.
If lines under `deps:` or `params:` differ, the results were committed before a change of code, data or
parameters: run `dvc repro`, commit, and try again. If only lines under `outs:` or files in metrics/
differ, please report it, with the lines above and these. (Arm64 and x86-64 give other last digits.)
"""
DIGESTS = Path("tests/pipeline/digests-arm64.json")
ON_ARM64 = f"""
As committed are code, parameters and prepared data. The results are not: that is expected if they were
committed on x86-64. Short runs gave the bytes of Arm64, those in {DIGESTS}.
"""


def git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(f"error: Git: {' '.join(result.stderr.split())}")
    return result.stdout.removesuffix("\n")


def is_as_arm64(project: Path) -> bool:
    """Return whether a clone in which all stages ran has committed inputs, and gives Arm64's bytes."""
    before, after = (
        yaml.safe_load(text)["stages"]
        for text in (git("show", "HEAD:./dvc.lock"), (project / "dvc.lock").read_text())
    )
    made = {
        out["path"] for name, stage in after.items() if name != "prepare" for out in stage["outs"]
    }
    inputs_before, inputs_after = (
        [
            (
                stage["cmd"],
                stage["params"],
                [dep for dep in stage["deps"] if dep["path"] not in made],
            )
            for stage in stages.values()
        ]
        for stages in (before, after)
    )
    if inputs_before != inputs_after:
        return False
    print("The results differ. Comparing short runs with the checksums of Arm64 …", flush=True)
    digests = [sys.executable, "-m", "tests.pipeline.digests"]
    result = subprocess.run(digests, cwd=project, stdout=subprocess.PIPE, check=False)
    if result.returncode:
        sys.exit(f"error: `{' '.join(digests)}` failed, see above; its results were not compared")
    return json.loads(result.stdout) == json.loads((project / DIGESTS).read_text())


def main() -> None:
    environment = dict(os.environ)
    mirror = environment.get("MNIST_MIRROR", "")
    if mirror and "://" not in mirror:
        environment["MNIST_MIRROR"] = str(Path(mirror).absolute())
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        # The project may be a subfolder of its repository.
        top, below = (git("rev-parse", name) for name in ("--show-toplevel", "--show-prefix"))
        project = clone / below
        # The clone has no .dvc/config.local, and DVC's default is a folder of all users.
        environment["DVC_SITE_CACHE_DIR"] = str(Path(folder, "site-cache"))

        def run(*command: str | Path, check: bool = True) -> int:
            here = project if clone.exists() else ROOT
            return subprocess.run(command, cwd=here, env=environment, check=check).returncode

        print(
            "Running the last commit in a temporary clone; uncommitted changes do not count.",
            flush=True,
        )
        try:
            run("git", "clone", "--quiet", top, clone)
            run("git", "--no-pager", "log", "-1", "--oneline")
            run("git", "cat-file", "-e", "HEAD:./dvc.lock")
            if added := sorted(
                path for folder in ("data", "weights") for path in (project / folder).glob("*.dvc")
            ):
                cache = subprocess.check_output(
                    ["dvc", "cache", "dir"], cwd=ROOT, text=True
                ).strip()
                run("dvc", "config", "--local", "cache.dir", cache)
                run("dvc", "checkout", *added)
                run("dvc", "config", "--local", "--unset", "cache.dir")
            params = yaml.safe_load((project / "params.yaml").read_text())
            data = f"data/{params['prepare']['dataset']}"
            if not (project / data).is_dir():
                sys.exit(
                    f"error: {data}: in neither Git nor DVC; run `git add {data}` or "
                    f"`dvc add {data}`, and commit"
                )
            run("dvc", "repro", "--force", "--no-run-cache")
        except subprocess.CalledProcessError as error:
            command_line = " ".join(map(str, error.cmd))
            sys.exit(f"error: `{command_line}` failed, see above; nothing was compared")
        if run("git", "--no-pager", "diff", "--exit-code", ".", check=False) == 0:
            print("Same bytes: all files that the stages write are as committed.")
            return
        if platform.machine() == "aarch64" and is_as_arm64(project):
            print(ON_ARM64)
            return
    print(DIFFERENT, *(f"{key}: {value}\n" for key, value in machine().items()), sep="")
    sys.exit(1)


if __name__ == "__main__":
    run_tool(main)
