"""`make doctor` after real damage: each command that it prints is run, and then DVC."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.project import Project, Running, executed

LOCK = "dvc.lock"
LONG = ("epochs: 10\n    batch_size: 32", "epochs: 2000\n    batch_size: 32")
Explained = Callable[[str], None]


def doctor(project: Project, *arguments: str, fails: bool = False) -> str:
    return project.run("python", "-m", "tools.doctor", *arguments, fails=fails)


def cached(project: Project, path: str) -> Path:
    """Return the object in DVC's cache that dvc.lock has for a file."""
    _, after = project.read(LOCK).decode().split(f"path: {path}\n", 1)
    digest = after.split("md5: ", 2)[1].split()[0]
    return project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def flip_a_bit(path: Path) -> None:
    """Damage a file as a bad disk does: its times and rights, which DVC checks, stay the same."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("hardlink_lock", ["false", "true"])
def test_without_damage_nothing_is_found_and_dvc_goes_on(
    committed: Project, hardlink_lock: str, explained: Explained
):
    committed.run("dvc", "config", "--local", "core.hardlink_lock", hardlink_lock)
    if hardlink_lock == "true":  # DVC waits for what its other kind of lock has left
        explained(doctor(committed, fails=True))
        assert doctor(committed, "--fix").endswith("Repaired; now run `dvc repro`.\n")
    assert doctor(committed) == "Nothing is wrong.\n"
    assert committed.run("dvc", "status") == "Data and pipelines are up to date.\n"


@pytest.mark.parametrize("content", [b"", b"schema: '2.0'\nstages:\n  prep", b"\0" * 300])
def test_a_broken_lock_is_the_last_commits_again(
    committed: Project, content: bytes, explained: Explained
):
    lock = committed.read(LOCK)
    (committed.folder / LOCK).write_bytes(content)
    output = doctor(committed, fails=True)
    explained(output)
    assert "    git show HEAD:./dvc.lock > dvc.lock\n" in output
    assert committed.read(LOCK) == content
    assert "Repaired; now run `dvc repro`." in doctor(committed, "--fix")
    assert committed.read(LOCK) == lock
    assert committed.read(".dvc/tmp/dvc.lock.broken") == content
    assert committed.repro() == []


def test_a_broken_lock_that_was_committed_is_moved_away(committed: Project):
    content = committed.read(LOCK) + b"schema: '2.0'\n"  # a second time, which only DVC refuses
    (committed.folder / LOCK).write_bytes(content)
    committed.run("git", "commit", "--quiet", "--all", "--message=Keep both sides")
    doctor(committed, "--fix")
    assert committed.read(".dvc/tmp/dvc.lock.broken") == content
    assert not (committed.folder / LOCK).exists()


def test_a_merge_conflict_is_left_to_its_owner(committed: Project, explained: Explained):
    content = b"<<<<<<< HEAD\n" + committed.read(LOCK)
    (committed.folder / LOCK).write_bytes(content)
    output = doctor(committed, "--fix", fails=True)
    explained(output)
    assert "\n    rm dvc.lock\n    dvc repro\n" in output  # Git has no merge in progress
    assert committed.read(LOCK) == content


@pytest.mark.parametrize("holder", ["broken", "gone", "reused", "zombie"])
def test_a_stale_lock_of_dvcs_is_removed(committed: Project, holder: str, explained: Explained):
    path = committed.folder / ".dvc/tmp/rwlock"
    with subprocess.Popen(["sleep", "0" if holder == "zombie" else "60"]) as other:
        pid = 2**22 - 1 if holder == "gone" else other.pid
        info = {"pid": pid, "cmd": "dvc repro"}
        target = str(committed.folder / "data/prepared/train.safetensors")
        content = json.dumps({"write": {target: info}, "read": {}})
        if holder == "zombie":
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        path.write_text(content[:40] if holder == "broken" else content)
        if holder == "reused":
            os.utime(path, (0, 0))  # older than the process
        explained(doctor(committed, fails=True))
        doctor(committed, "--fix")
        assert not path.exists()
        committed.run("dvc", "repro", "--force", "--single-item", "prepare")
        other.kill()


def test_nothing_is_touched_while_a_dvc_is_at_work(committed: Project, explained: Explained):
    temporary = committed.folder / f"models/.model.pth.{2**22 - 1}.tmp"
    temporary.touch()
    committed.edit("params.yaml", *LONG)
    running = Running(committed, "dvc", "repro", "train")
    running.wait_for("Epoch 1:")
    output = doctor(committed, "--fix", fails=True)
    before = committed.read("params.yaml")
    output += committed.run("make", "run", MNIST_MIRROR="/nowhere", fails=True)
    assert committed.read("params.yaml") == before
    running.process.terminate()
    running.end(fails=None)
    assert output.count(" works in this folder; try again when it has ended") == 2
    assert temporary.exists()
    explained(output)


def test_temporary_files_of_killed_stages_are_removed(committed: Project):
    models = committed.folder / "models"
    kept = [f".model.pth.{os.getpid()}.tmp", ".mine.tmp"]
    of_dvc = ".20nY8IZkMd6BIgpxu0OOUg.tmp"  # as it copies a file from its cache
    for name in (*kept, f".model.pth.{2**22 - 1}.tmp", of_dvc):
        (models / name).touch()
    (models / f".mine.{2**22 - 1}.tmp").mkdir()
    doctor(committed, "--fix")
    assert sorted(path.name for path in models.glob(".*.tmp") if path.is_file()) == sorted(kept)
    assert (models / f".mine.{2**22 - 1}.tmp").exists()


@pytest.mark.parametrize(
    ("path", "stage"),
    [("data/prepared/train.safetensors", "train"), ("models/model_weights.pth", "evaluate")],
)
def test_a_bit_flipped_in_the_cache_reaches_no_model(
    committed: Project, path: str, stage: str, explained: Explained
):
    """DVC trusts read-only objects. The stages do not, and doctor removes the damaged ones."""
    expected = {name: committed.read(name) for name in (path, "models/model.pth", LOCK)}
    flip_a_bit(cached(committed, path))
    (committed.folder / path).unlink()
    committed.run("dvc", "checkout", path)
    assert committed.read(path) != expected[path]
    output = committed.run("dvc", "repro", "--force", "--single-item", stage, fails=True)
    assert "Traceback" not in output
    repaired = doctor(committed, "--fix")
    assert f"{path}: damaged: " in repaired
    explained(output + repaired)
    committed.run("dvc", "repro")
    assert {name: committed.read(name) for name in expected} == expected
    assert doctor(committed) == "Nothing is wrong.\n"


def test_a_file_that_someone_changed_is_kept(committed: Project):
    """It has the size that dvc.lock says, as weights of another training have; DVC reruns the stage."""
    card = committed.read("models/README.md").replace(b"e", b"3", 1)
    (committed.folder / "models/README.md").write_bytes(card)
    assert doctor(committed, "--fix") == "Nothing is wrong.\n"
    assert committed.read("models/README.md") == card


@pytest.mark.parametrize("path", ["models/model.onnx", "metrics/evaluate.json"])
def test_a_bit_flipped_in_the_workspace_is_repaired(
    committed: Project, path: str, explained: Explained
):
    """DVC takes the file for unchanged, and `dvc checkout` restores no file of metrics/."""
    content = committed.read(path)
    committed.run("dvc", "status")  # DVC knows the checksums
    flip_a_bit(committed.folder / path)
    assert committed.run("dvc", "status") == "Data and pipelines are up to date.\n"
    output = doctor(committed, "--fix")
    explained(output)
    assert committed.read(path) == content
    assert doctor(committed) == "Nothing is wrong.\n"


def test_make_run_prints_no_accuracy_of_a_damaged_file(committed: Project):
    """DVC restored it from its cache: that of the last run, and that of an earlier one."""
    metrics = committed.folder / "metrics/evaluate.json"
    expected, stored = metrics.read_bytes(), cached(committed, "metrics/evaluate.json")
    flip_a_bit(stored)
    metrics.unlink()
    assert executed(committed.run("make", "run")) == ["evaluate"]
    assert metrics.read_bytes() == expected

    committed.edit("params.yaml", "batch_size: 1000   ", "batch_size: 100   ")
    assert committed.repro() == ["evaluate"]
    flip_a_bit(stored)
    committed.edit("params.yaml", "batch_size: 100   ", "batch_size: 1000   ")
    output = committed.run("make", "run", fails=True)
    assert "metrics/evaluate.json: damaged" in output
    assert "accuracy    calibration_error" not in output
    doctor(committed, "--fix")
    assert executed(committed.run("make", "run")) == ["evaluate"]
    assert metrics.read_bytes() == expected


@pytest.fixture
def pictures(project: Project) -> Project:
    """A data set that `dvc add` keeps."""
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        path = project.folder / "data/mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the picture {name}")
    project.run("dvc", "add", "data/mine")
    return project


def objects(project: Project, path: str) -> list[Path]:
    """Return the object of DVC's cache for a folder's list of files, and the one for a file."""
    cache = project.folder / ".dvc/cache/files/md5"
    digest = hashlib.md5(project.read(path)).hexdigest()
    return [*cache.glob("*/*.dir"), cache / digest[:2] / digest[2:]]


def test_a_bit_flipped_in_the_cache_of_a_data_set_is_repaired(
    pictures: Project, explained: Explained
):
    for stored in objects(pictures, "data/mine/a/2.png"):
        content = stored.read_bytes()
        flip_a_bit(stored)
        output = doctor(pictures, "--fix")
        assert output.startswith("data/mine") and "damaged: " in output
        explained(output)
        assert not stored.exists()
        pictures.run("dvc", "repro", "data/mine.dvc")
        assert stored.read_bytes() == content
    assert doctor(pictures) == "Nothing is wrong.\n"


def test_the_only_copy_of_a_damaged_picture_is_left_to_its_owner(pictures: Project):
    """`dvc checkout` restored it, and prepare learned it. Without it, DVC would record the others."""
    path, content = "data/mine/a/2.png", pictures.read("data/mine/a/2.png")
    pictures.run("dvc", "remote", "add", "--default", "team", "../store")
    pictures.run("dvc", "push", "data/mine.dvc")
    flip_a_bit(objects(pictures, path)[1])
    shutil.rmtree(pictures.folder / "data/mine")
    pictures.run("dvc", "checkout", "data/mine")
    assert pictures.read(path) != content
    output = doctor(pictures, "--fix", fails=True)
    assert pictures.read(path) != content
    commands = [line for line in output.splitlines() if line.startswith("    ")]
    pictures.run("sh", "-ec", "\n".join(commands))
    assert pictures.read(path) == content
    assert doctor(pictures) == "Nothing is wrong.\n"


def test_an_edited_picture_of_a_data_set_is_not_damage(pictures: Project):
    (pictures.folder / "data/mine/a/2.png").write_text("the picture a/9.png")
    assert doctor(pictures) == "Nothing is wrong.\n"


def test_a_bit_flipped_in_a_picture_is_repaired_from_the_cache(pictures: Project):
    path, content = "data/mine/a/2.png", pictures.read("data/mine/a/2.png")
    flip_a_bit(pictures.folder / path)
    doctor(pictures, "--fix")
    assert pictures.read(path) == content


def test_a_folder_among_the_outputs_is_not_damage(committed: Project):
    mine = "{cmd: mkdir models/mine && echo 1 > models/mine/a, outs: [models/mine]}"
    committed.edit("dvc.yaml", "\nstages:\n", f"\nstages:\n  mine: {mine}\n")
    assert committed.repro("mine") == ["mine"]
    assert doctor(committed) == "Nothing is wrong.\n"


@pytest.mark.parametrize("end", ["digit", "\n      md5:", "\n      size:"])
def test_a_lock_that_is_cut_within_its_last_entry_is_broken(committed: Project, end: str):
    """It is YAML still."""
    content = committed.read(LOCK).decode()
    cut = content.rstrip()[:-1] if end == "digit" else content.rpartition(end)[0] + "\n"
    (committed.folder / LOCK).write_text(cut)
    assert "dvc.lock: broken (cut off)" in doctor(committed, fails=True)
    doctor(committed, "--fix")
    assert committed.read(LOCK).decode() == content


@pytest.mark.parametrize("end", ["    deps:\n", "    outs:\n", r"  \w+:\n    cmd:"])
def test_a_lock_that_is_cut_between_entries_is_broken(
    committed: Project, end: str, explained: Explained
):
    """It is YAML still, and DVC can read it."""
    content = committed.read(LOCK).decode()
    last = list(re.finditer(f"^{end}", content, re.MULTILINE))[-1]
    (committed.folder / LOCK).write_text(content[: last.start()])
    output = doctor(committed, fails=True)
    assert "dvc.lock: broken (cut off: not all of " in output
    explained(output)
    doctor(committed, "--fix")
    assert committed.read(LOCK).decode() == content


def test_a_stage_that_is_new_renamed_or_has_fewer_sections_is_not_damage(committed: Project):
    committed.edit("dvc.yaml", "\nstages:\n", "\nstages:\n  mine: {cmd: 'true', deps: [LICENSE]}\n")
    committed.edit("dvc.yaml", "\n  export:\n", "\n  publish:\n")
    committed.edit("dvc.yaml", "    params:\n      - evaluate\n", "")
    content = yaml.safe_load(committed.read(LOCK))
    del content["stages"]["export"], content["stages"]["evaluate"]["params"]
    (committed.folder / LOCK).write_text(yaml.safe_dump(content, sort_keys=False))
    assert doctor(committed) == "Nothing is wrong.\n"


def test_a_shallow_clone_is_a_note(project: Project, explained: Explained):
    """`dvc exp run --temp` trained, reported success, and kept nothing."""
    clone = Project(project.folder.parent / "clone")
    address = project.folder.as_uri()
    project.run("git", "commit", "--quiet", "--allow-empty", "--message=Add a second commit")
    project.run("git", "clone", "--quiet", "--depth=1", address, str(clone.folder))
    note, ending = doctor(clone).splitlines()
    explained(note)
    assert ending == "Nothing is wrong."
    clone.run("git", "fetch", "--quiet", "--unshallow")
    assert doctor(clone) == "Nothing is wrong.\n"
