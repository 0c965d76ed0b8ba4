"""Full disks, disks that cannot be written, odd folders, and more than one run at a time."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx
import pytest

from tests.pipeline.torture import OUTPUTS, contents, members
from tests.project import Project, Running, executed, lend_environment

pytestmark = pytest.mark.slow

FOLDERS = {"prepare": "data/prepared", "train": "models", "evaluate": "metrics", "export": "models"}
FAULTS = {"full": "size=6m", "no inodes": "nr_inodes=60", "read-only": ""}


@contextmanager
def bad_disk(folder: Path, fault: str) -> Iterator[None]:
    """Mount a small disk with a folder's content in its place; nothing more can be written to it."""
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


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Keep everybody, root included, from writing into an empty folder."""
    folder.chmod(0o555)
    with bad_disk(folder, "read-only") if os.geteuid() == 0 else nullcontext():
        yield


def fill(folder: Path, fault: str) -> None:
    if fault == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        return
    with pytest.raises(OSError, match="No space left"):
        for number in range(100_000):
            path = folder / f"filler {number}"
            path.touch() if fault == "no inodes" else path.write_bytes(bytes(1 << 16))
    if fault == "full":  # real disks have a little room left
        (folder / "filler 0").write_bytes(bytes(60_000))


@pytest.mark.parametrize("stage", FOLDERS)
def test_a_stage_on_a_bad_disk_names_it_and_changes_nothing(
    committed: Project, stage: str, explained: Callable[[str], None]
):
    before, folder = contents(committed), committed.folder / FOLDERS[stage]
    for fault in FAULTS:
        with bad_disk(folder, fault):
            output = committed.run("python", "-m", f"stages.{stage}", fails=True)
            after = {path: sha for path, sha in contents(committed).items() if "filler" not in path}
        assert output.splitlines()[-1].startswith(f"error: {FOLDERS[stage]}"), fault
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


def test_a_full_cache_costs_only_another_run(committed: Project):
    before = contents(committed)
    cache = committed.folder / ".dvc/cache/files"
    committed.edit("params.yaml", "dropout: 0.2", "dropout: 0.1")
    with bad_disk(cache, "full"):
        output = committed.run("dvc", "repro", fails=True)
        assert "No space left on device" in output
    committed.edit("params.yaml", "dropout: 0.1", "dropout: 0.2")
    committed.run("python", "-m", "tools.doctor", "--fix")
    committed.run("dvc", "repro")
    assert contents(committed) == before


def test_two_runs_at_once_give_what_one_does(committed: Project, explained: Callable[[str], None]):
    before = contents(committed)
    shutil.rmtree(committed.folder / ".dvc/cache")  # else the stages would not run
    for output in (
        *committed.folder.glob("data/prepared/*"),
        *committed.folder.glob("models/model*"),
    ):
        output.unlink()
    first = Running(committed, "make", "run")
    first.wait_for("Epoch 1: ")
    second = Running(committed, "make", "run")
    second.wait_for("note: another `make run` works in this folder; waiting for its end\n")
    refused = committed.run("dvc", "repro", fails=True)
    assert " is busy, it is being blocked by:\n" in refused
    assert executed(first.end()) == ["prepare", "train", "export"]
    waited = second.end()
    assert executed(waited) == []
    assert "Traceback" not in waited + refused
    explained(waited + refused)
    assert contents(committed) == before
    assert committed.git_status() == ""


def test_the_demo_keeps_answering_while_its_model_is_exported_again(committed: Project):
    """DVC removes the file before the stage writes it."""
    model = committed.folder / "models/model.onnx"
    picture = (committed.folder / "data/symbols/cross/00.png").read_bytes()
    demo = Running(committed, "python", "-m", "predict.demo", "--port", "0", "--model", str(model))
    demo.wait_for("http://")
    [address] = re.findall(r"http://\S+", demo.output())
    with httpx.Client(base_url=address, trust_env=False) as client:

        def predict() -> dict:
            return client.post("/predict", content=picture).raise_for_status().json()

        expected = predict()
        run = Running(committed, "dvc", "repro", "--force", "--single-item", "export")
        exists = set()
        while run.process.poll() is None:
            exists.add(model.exists())
            assert predict() == expected
            time.sleep(0.05)
        run.end()
    assert exists == {True, False}
    demo.process.terminate()
    assert "Traceback" not in demo.end(fails=None)


def test_a_read_only_home_costs_only_the_checkpoints(
    committed: Project, explained: Callable[[str], None]
):
    before, home = contents(committed), committed.folder.parent / "home"
    home.mkdir()
    names = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "DVC_GLOBAL_CONFIG_DIR", "DVC_SITE_CACHE_DIR")
    in_home = dict.fromkeys((*names, "GIT_CONFIG_GLOBAL"), "") | {"HOME": str(home)}
    with read_only(home):
        committed.run("make", "run", **in_home)
        output = committed.run("dvc", "repro", "--force", "--single-item", "train", **in_home)
        assert f"note: no checkpoints are kept: {home}/.cache: " in output
    explained(output)
    assert contents(committed) == before


@pytest.mark.parametrize("target", ["run", "doctor"])
def test_a_read_only_checkout_is_one_line(
    project: Project, target: str, explained: Callable[[str], None]
):
    """DVC failed on its database, in a traceback or in several lines."""
    lend_environment(project)
    with bad_disk(project.folder / ".dvc", "read-only"):
        line, *rest = project.run("make", target, fails=True).splitlines()
    assert line.startswith("error: .dvc: not writable")
    assert len(rest) == 1  # of make
    explained(line)


LONG = ("epochs: 10\n    batch_size: 32", "epochs: 400\n    batch_size: 32")


def test_a_stage_ends_with_its_dvc(committed: Project):
    """Otherwise it would replace the outputs of the next run."""
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


def test_a_stage_waits_for_the_end_of_another(committed: Project, explained: Callable[[str], None]):
    committed.edit("params.yaml", "epochs: 10", "epochs: 80")
    first = Running(committed, "python", "-m", "stages.train")
    first.wait_for("Epoch 1: ")
    first.process.send_signal(signal.SIGSTOP)  # so that it cannot end before the second has started
    second = Running(committed, "python", "-m", "stages.train")
    second.wait_for("note: a stage still runs in another process; waiting for its end")
    assert "Epoch 1: " not in second.output()
    first.process.send_signal(signal.SIGCONT)
    assert "Epoch 80: " in first.end()
    weights = committed.read("models/model_weights.pth")
    explained(second.end())
    assert committed.read("models/model_weights.pth") == weights
