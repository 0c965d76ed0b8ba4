"""`make doctor` on what really happened to others: each command that it prints is run, and then DVC."""

import fcntl
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import Project, Running, copy_of

LOCK = "dvc.lock"
TRAIN = ("python", "-m", "stages.train")
LONG = ("epochs: 10\n    batch_size: 32", "epochs: 2000\n    batch_size: 32")


def doctor(project: Project, *arguments: str, fails: bool = False, **environment: str) -> str:
    return project.run("python", "-m", "tools.doctor", *arguments, fails=fails, **environment)


def cached(project: Project, path: str) -> Path:
    """Return the object in DVC's cache that dvc.lock has for a file."""
    _, after = project.read(LOCK).decode().split(f"path: {path}\n", 1)
    digest = after.split("md5: ", 2)[1].split()[0]
    return project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def flip_a_bit(path: Path) -> None:
    """As a bad disk does: times and rights stay the same, by which DVC would see it."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_nothing_is_found_where_nothing_is_wrong(committed: Project):
    assert doctor(committed) == "Nothing is wrong.\n"
    assert doctor(committed, "--quick") == ""


@pytest.mark.parametrize(
    "content", [b"", b"schema: '2.0'\nstages:\n  prep", b"\0" * 300, b"schema: '2.0'\nstages: 3\n"]
)
def test_a_broken_lock_is_the_last_commits_again(
    committed: Project, content: bytes, explained: Callable[[str], None]
):
    lock = committed.read(LOCK)
    (committed.folder / LOCK).write_bytes(content)
    output = doctor(committed, fails=True)
    explained(output)
    assert "    git show HEAD:./dvc.lock > dvc.lock\n" in output
    assert committed.read(LOCK) == content
    assert "Mended; now run `dvc repro`." in doctor(committed, "--fix")
    assert committed.read(LOCK) == lock
    assert committed.repro() == []


@pytest.mark.parametrize("committed_too", [False, True])
def test_a_lock_that_only_dvc_takes_for_broken_is_told(committed: Project, committed_too: bool):
    """A key stands twice, as after both sides of a merge were kept, perhaps in the last commit, too."""
    content = committed.read(LOCK) + b"schema: '2.0'\n"
    (committed.folder / LOCK).write_bytes(content)
    if committed_too:
        committed.run("git", "commit", "--quiet", "--all", "--message=Keep both")
    doctor(committed, "--fix")
    assert committed.read(".dvc/tmp/dvc.lock.broken") == content
    assert (committed.folder / LOCK).exists() != committed_too
    assert doctor(committed, "--quick") == ""


@pytest.mark.parametrize("mark", ["<<<<<<< HEAD", "=======", ">>>>>>> other"])
def test_a_merge_conflict_is_left_to_its_owner(
    committed: Project, mark: str, explained: Callable[[str], None]
):
    content = f"{mark}\n".encode() + committed.read(LOCK)
    (committed.folder / LOCK).write_bytes(content)
    output = doctor(committed, "--fix", fails=True)
    explained(output)
    assert "\n    rm dvc.lock\n    dvc repro\n" in output  # no merge is going on
    assert committed.read(LOCK) == content


@pytest.mark.parametrize("holder", ["broken", "gone", "reused"])
def test_a_stale_lock_of_dvcs_is_removed(
    committed: Project, holder: str, explained: Callable[[str], None]
):
    path = committed.folder / ".dvc/tmp/rwlock"
    with subprocess.Popen(["sleep", "60"]) as other:
        pid = {"broken": 0, "gone": 2**22 - 1, "reused": other.pid}[holder]
        info = {"pid": pid, "cmd": "dvc repro"}
        target = str(committed.folder / "models/model.pth")
        whole = json.dumps({"write": {target: info}, "read": {}})
        path.write_text(whole[:40] if holder == "broken" else whole)
        os.utime(path, (0, 0))  # before the process was there
        explained(doctor(committed, fails=True))
        doctor(committed, "--quick", "--fix")
        assert not path.exists()
        committed.run("dvc", "repro", "--force", "--single-item", "export")
        other.kill()


def test_nothing_is_touched_while_a_dvc_is_at_work(
    committed: Project, explained: Callable[[str], None]
):
    (committed.folder / "models/.model.pth.4711.tmp").touch()
    with (committed.folder / ".dvc/tmp/lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as `dvc checkout` does
        outputs = [doctor(committed, "--fix", fails=True)]
    committed.edit("params.yaml", *LONG)
    running = Running(committed, "dvc", "repro", "train")
    running.wait_for("Epoch 1:")
    outputs.append(doctor(committed, "--fix", fails=True))
    # Without a source, `make run` would set prepare.dataset to digits.
    shutil.rmtree(committed.folder / "data/prepared")
    before = committed.read("params.yaml")
    outputs.append(committed.run("make", "run", MNIST_MIRROR="/nowhere", fails=True))
    assert committed.read("params.yaml") == before
    running.process.terminate()
    running.end(fails=None)
    for output in outputs:
        assert " works in this folder; try again when it has ended" in output
    assert (committed.folder / "models/.model.pth.4711.tmp").exists()
    explained("\n".join(outputs))


def test_a_site_cache_that_others_may_enter_is_made_anew(
    committed: Project, explained: Callable[[str], None]
):
    unset = {"DVC_SITE_CACHE_DIR": ""}
    output = doctor(committed, fails=True, **unset)
    assert "core.site_cache_dir: not set" in output
    assert "    sh tools/site_cache.sh\n" in output
    doctor(committed, "--fix", **unset)
    site_cache = Path(committed.run("dvc", "config", "core.site_cache_dir").strip())
    pickle = site_cache / "pickle"
    pickle.touch()
    site_cache.chmod(0o770)
    opened = doctor(committed, "--fix", **unset)
    assert f"{site_cache}: of user " in opened
    explained(output + opened)
    assert stat.S_IMODE(site_cache.stat().st_mode) == 0o700
    assert not pickle.exists()
    site_cache.rmdir()
    assert f"{site_cache}: missing" in doctor(committed, "--fix", **unset)
    assert stat.S_IMODE(site_cache.stat().st_mode) == 0o700
    assert doctor(committed, **unset) == "Nothing is wrong.\n"


def test_temporary_files_are_removed_when_no_stage_runs(
    committed: Project, tmp_path: Path, explained: Callable[[str], None]
):
    left = committed.folder / "models/.model.pth.4711.tmp"
    left.touch()
    others = [committed.folder / "models" / name for name in (".mine.tmp", ".mine.1.tmp/")]
    others[0].touch()
    others[1].mkdir()
    committed.edit("params.yaml", *LONG)
    elsewhere = Running(copy_of(committed, tmp_path / "another clone"), *TRAIN)
    running = Running(committed, *TRAIN)
    for one in (elsewhere, running):
        one.wait_for("Epoch 1:")
    output = doctor(committed, "--quick", "--fix")
    explained(output)
    assert left.exists()
    assert output.split("kill ")[1].split() == [str(running.process.pid)]
    for one in (elsewhere, running):
        one.process.kill()
        one.end(fails=True)
    doctor(committed, "--quick", "--fix")
    assert not left.exists()
    assert all(path.exists() for path in others)


@pytest.mark.parametrize(
    ("path", "stage"),
    [("data/prepared/train.safetensors", "train"), ("models/model_weights.pth", "evaluate")],
)
def test_a_bit_flipped_in_the_cache_reaches_no_model(
    committed: Project, path: str, stage: str, explained: Callable[[str], None]
):
    """DVC trusts objects that are read-only; the readers do not, and the cache is cleaned."""
    expected = {name: committed.read(name) for name in (path, "models/model.pth", LOCK)}
    flip_a_bit(cached(committed, path))
    (committed.folder / path).unlink()
    committed.run("dvc", "checkout", path)
    assert committed.read(path) != expected[path]
    output = committed.run("dvc", "repro", "--force", "--single-item", stage, fails=True)
    assert "Traceback" not in output
    output += doctor(committed, "--fix")
    explained(output)
    assert f"{path}: not what dvc.lock says" in output
    committed.run("dvc", "repro")
    assert {name: committed.read(name) for name in expected} == expected
    assert doctor(committed) == "Nothing is wrong.\n"


def test_what_somebody_has_made_is_not_removed(
    committed: Project, explained: Callable[[str], None]
):
    """Of the size that dvc.lock says, as weights of another training are."""
    card = committed.read("models/README.md").replace(b"e", b"3", 1)
    (committed.folder / "models/README.md").write_bytes(card)
    output = doctor(committed, "--fix", fails=True)
    explained(output)
    assert "    rm models/README.md\n    dvc checkout models/README.md\n" in output
    assert committed.read("models/README.md") == card


def test_a_folder_among_the_outputs_is_not_taken_for_damaged(committed: Project):
    mine = "{cmd: mkdir models/mine && echo 1 > models/mine/a, outs: [models/mine]}"
    committed.edit("dvc.yaml", "\nstages:\n", f"\nstages:\n  mine: {mine}\n")
    assert committed.repro("mine") == ["mine"]
    assert doctor(committed) == "Nothing is wrong.\n"
