"""`make torture`: kill stages at random moments, and check the files afterwards.

python -m tests.pipeline.torture KILLS [SEED]
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from tests.project import Project, Running, fresh_clone, lend_environment

OUTPUTS = {
    "prepare": ["data/prepared/*.safetensors", "metrics/dataset.json", "metrics/samples.svg"],
    "train": ["models/model_weights.pth", "models/network.json"],
    "evaluate": ["metrics/evaluate.json", "metrics/*.csv", "metrics/mistakes.svg"],
    "export": ["models/model.*", "models/config.json", "models/README.md", "metrics/export.json"],
}
KILLS = ("stage", "dvc", "group", "interrupt", "terminate")


def torture(project: Project, kills: int, seed: int) -> tuple[Counter, list[str]]:
    """Kill a stage under `dvc repro` so many times; return counts of the kills, and lines of faults.

    Each file with a final name must be whole, and that of the whole stage but for the two that `train`
    publishes after each epoch; the next `dvc repro` must succeed, and restore the bytes and the records
    from before, without temporary files.
    """
    expected = contents(project)
    bar = tqdm(total=kills, desc="kills", disable=None)  # on a terminal only
    seconds = {}
    for stage in OUTPUTS:
        started = time.monotonic()
        project.run("dvc", "repro", "--force", "--single-item", stage)
        seconds[stage] = time.monotonic() - started
    rng, done, faults = random.Random(seed), Counter(), []
    while sum(done.values()) < kills:
        stage, how = rng.choice(list(OUTPUTS)), rng.choice(KILLS)
        moment = rng.uniform(0, 1.05 * seconds[stage])
        shutil.rmtree(
            project.folder / ".dvc/cache/runs", ignore_errors=True
        )  # else it would not run
        running = Running(project, "dvc", "repro", "--force", "--single-item", stage)
        time.sleep(moment)
        if not end(running, stage, how):
            continue  # it had ended
        name = f"{sum(done.values())}: {how} of {stage} after {moment:.2f} s"
        try:
            lines = check(project, stage, expected)
        except AssertionError as error:
            lines = [f"a command failed: {str(error)[-1500:]}"]
        faults += [f"{name}: {line}" for line in lines]
        done[f"{how} {stage}"] += 1
        bar.update()
        if lines:
            print(*faults[-len(lines) :], sep="\n", flush=True)
    bar.close()
    return done, faults


def end(running: Running, stage: str, how: str) -> bool:
    """End `dvc repro`, its stage, or both, in one of the ways of KILLS; return whether they ran."""
    group = running.process.pid
    alive = running.process.poll() is None
    if how == "stage":
        stages = members(group, f"stages.{stage}")
        alive = bool(stages)
        for pid in stages:
            os.kill(pid, signal.SIGKILL)
    elif how == "dvc" and alive:
        os.kill(group, signal.SIGKILL)
    elif alive:
        kinds = {"group": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
        os.killpg(group, kinds[how])
    running.process.wait(timeout=60)
    return alive


def members(group: int, argument: str) -> list[int]:
    """Return the processes of a group whose command line has an argument."""
    processes = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group and argument in (path / "cmdline").read_text():
                processes.append(int(path.name))
        except (OSError, ValueError):  # it has ended
            continue
    return processes


def check(project: Project, stage: str, expected: dict[str, str]) -> list[str]:
    """Return the faults after a stage was ended."""
    faults = [
        f"{path} has other content"
        for pattern in OUTPUTS[stage]
        for path in map(str, project.folder.glob(pattern))
        if digest(Path(path)) != expected.get(os.path.relpath(path, project.folder))
    ]
    # As `make run` does first. If DVC alone was killed, its stage may still run.
    output = project.run("python", "-m", "tools.doctor", "--fix")
    output += project.run("dvc", "repro")
    if "Traceback" in output:
        faults.append(output)
    if (status := project.run("dvc", "status")) != "Data and pipelines are up to date.\n":
        faults.append(f"dvc status: {status}")
    after = contents(project)
    for path in sorted(expected.keys() | after.keys()):
        if expected.get(path) != after.get(path):
            kind = "has other content" if path in expected and path in after else "is left or lost"
            faults.append(f"{path} {kind}")
    return faults


def contents(project: Project) -> dict[str, str]:
    """Return the SHA-256 of the files of stages and DVC by path, temporary files included."""
    folders = ("data/prepared", "models", "metrics")
    paths = [path for folder in folders for path in (project.folder / folder).rglob("*")]
    paths.append(project.folder / "dvc.lock")
    return {str(path.relative_to(project.folder)): digest(path) for path in paths if path.is_file()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    kills, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        project = fresh_clone(Path(folder) / "project")
        lend_environment(project)
        project.run("make", "run", MNIST_MIRROR="/nowhere")
        project.run("git", "commit", "--quiet", "--all", "--message=Run on the digits")
        started = time.monotonic()
        done, faults = torture(project, kills, seed)
    for name, count in sorted(done.items()):
        print(f"{count:4} {name}")
    print(
        f"{kills} kills, {len(faults)} faults, in {(time.monotonic() - started) / 60:.0f} minutes"
    )
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
