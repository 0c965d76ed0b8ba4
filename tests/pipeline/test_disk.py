"""Full disks, disks that cannot be written, odd folders, and more than one run at a time."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pipeline.torture import OUTPUTS, contents, members
from tests.project import Project, Running, copy_of

pytestmark = pytest.mark.slow

FOLDERS = {"prepare": "data/prepared", "train": "models", "evaluate": "metrics", "export": "models"}
FAULTS = {"full": "size=6m", "no inodes": "nr_inodes=60", "read-only": ""}


@contextmanager
def bad_disk(folder: Path, fault: str) -> Iterator[None]:
    """Put a small disk with the content of a folder in its place: one that cannot be written to."""
    aside = folder.with_name(f"{folder.name} aside")
    shutil.copytree(folder, aside)
    options = f"mode=755,{FAULTS[fault]}".strip(",")
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(aside)
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        fill(folder, fault)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(aside)


def fill(folder: Path, fault: str) -> None:
    if fault == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        return
    with pytest.raises(OSError, match="No space left"):
        for number in range(100_000):
            path = folder / f"filler {number}"
            path.touch() if fault == "no inodes" else path.write_bytes(bytes(1 << 16))
    if fault == "full":  # a little is left, as in life
        (folder / "filler 0").write_bytes(bytes(60_000))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", FOLDERS)
def test_a_stage_on_a_bad_disk_says_so_and_changes_nothing(
    committed: Project, stage: str, fault: str, explained: Callable[[str], None]
):
    before, folder = contents(committed), committed.folder / FOLDERS[stage]
    with bad_disk(folder, fault):
        output = committed.run("python", "-m", f"stages.{stage}", fails=True)
        after = {path: sum_ for path, sum_ in contents(committed).items() if "filler" not in path}
    assert output.splitlines()[-1].startswith(f"error: {FOLDERS[stage]}")
    if fault != "read-only":
        explained(output)
    assert "Traceback" not in output
    assert after == before
    committed.run("python", "-m", f"stages.{stage}")
    assert contents(committed) == before


@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_full_folder_for_temporary_files_is_one_line(committed: Project, stage: str):
    before, folder = contents(committed), committed.folder.parent / "tmp"
    folder.mkdir()
    with bad_disk(folder, "full"):
        output = committed.run("python", "-m", f"stages.{stage}", fails=None, TMPDIR=str(folder))
    assert "Traceback" not in output
    assert contents(committed) == before


def test_a_full_cache_costs_nothing_but_another_run(committed: Project):
    before = contents(committed)
    cache = committed.folder / ".dvc/cache/files"
    committed.edit("params.yaml", "dropout: 0.2", "dropout: 0.1")
    with bad_disk(cache, "full"):
        output = committed.run("dvc", "repro", fails=True)
        assert "No space left on device" in output
    committed.edit("params.yaml", "dropout: 0.1", "dropout: 0.2")
    committed.run("python", "-m", "tools.doctor", "--quick", "--fix")
    committed.run("dvc", "repro")
    assert contents(committed) == before


def test_two_runs_at_once_give_what_one_does(committed: Project, tmp_path: Path):
    alone = copy_of(committed, tmp_path / "alone" / "project")
    for project in (committed, alone):
        project.edit("params.yaml", "dropout: 0.2", "dropout: 0.1")
    alone.run("dvc", "repro")
    runs = [Running(committed, "dvc", "repro") for _ in range(2)]
    outputs = [run.end(fails=None) for run in runs]
    failed = [output for output in outputs if "ERROR" in output]
    assert len(failed) <= 1
    assert not failed or "lock" in failed[0] or "busy" in failed[0]
    assert "Traceback" not in "".join(outputs)
    assert contents(committed) == contents(alone)


LONG = ("epochs: 10\n    batch_size: 32", "epochs: 400\n    batch_size: 32")


def test_a_stage_ends_with_its_dvc(committed: Project):
    """Or it would publish its outputs into what the next run has made."""
    committed.edit("params.yaml", *LONG)
    first = Running(committed, "dvc", "repro", "train")
    first.wait_for("Epoch 1: ")
    assert members(first.process.pid, "stages.train")
    first.process.kill()  # DVC alone
    first.end(fails=True)
    time.sleep(1)
    assert not members(first.process.pid, "stages.train")
    committed.edit("params.yaml", *reversed(LONG))
    committed.run("dvc", "repro")
    assert committed.git_status() == ""


def test_a_stage_waits_until_another_process_has_left_it(
    committed: Project, explained: Callable[[str], None]
):
    committed.edit("params.yaml", *LONG)
    first = Running(committed, "python", "-m", "stages.train")
    first.wait_for("Epoch 1: ")
    second = Running(committed, "python", "-m", "stages.train")
    second.wait_for("note: train still runs in another process; waiting for its end")
    second.wait_for("Epoch 1: ")
    assert "Epoch 400: " in first.end()
    weights = committed.read("models/model_weights.pth")
    explained(second.end())
    assert committed.read("models/model_weights.pth") == weights
