"""`make doctor` on what really happened to others: each command that it prints is run, and then DVC."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import Project, Running
from tools.doctor import main

LOCK = "dvc.lock"


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


def test_a_merge_conflict_is_left_to_its_owner(
    committed: Project, explained: Callable[[str], None]
):
    content = b"<<<<<<< HEAD\n" + committed.read(LOCK)
    (committed.folder / LOCK).write_bytes(content)
    output = doctor(committed, "--fix", fails=True)
    explained(output)
    assert "\n    git checkout --ours" in output
    assert committed.read(LOCK) == content


@pytest.mark.parametrize("holder", ["broken", "gone", "reused"])
def test_a_stale_lock_of_dvcs_is_removed(
    committed: Project, holder: str, explained: Callable[[str], None]
):
    path = committed.folder / ".dvc/tmp/rwlock"
    pid = {"broken": 0, "gone": 2**22 - 1, "reused": os.getppid()}[holder]
    info = {"pid": pid, "cmd": "dvc repro"}
    whole = json.dumps({"write": {str(committed.folder / "models/model.pth"): info}, "read": {}})
    path.write_text(whole[:40] if holder == "broken" else whole)
    explained(doctor(committed, fails=True))
    doctor(committed, "--quick", "--fix")
    assert not path.exists()
    committed.run("dvc", "repro", "--force", "--single-item", "export")


@pytest.mark.parametrize("name", [LOCK, ".dvc/tmp/rwlock"])
def test_what_dvc_is_writing_is_not_mended(
    committed: Project,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """It writes both files in place: `make run`, beside a `dvc repro`, may see the half of one."""
    whole = b'{"read": {}}' if name != LOCK else committed.read(LOCK)
    monkeypatch.chdir(committed.folder)
    monkeypatch.setattr(sys, "argv", ["doctor", "--quick", "--fix"])
    Path(name).write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(time, "sleep", lambda _: Path(name).write_bytes(whole))
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().out) == (0, "")
    assert committed.read(name) == whole


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
    committed: Project, explained: Callable[[str], None]
):
    left = committed.folder / "models/.model.pth.4711.tmp"
    left.touch()
    committed.edit(
        "params.yaml", "epochs: 10\n    batch_size: 32", "epochs: 2000\n    batch_size: 32"
    )
    running = Running(committed, "dvc", "repro", "train")
    running.wait_for("Epoch 1:")
    output = doctor(committed, "--quick", "--fix")
    explained(output)
    assert left.exists()
    running.process.terminate()
    running.end(fails=None)
    for pid in output.split("kill ")[1].split():
        subprocess.run(["kill", pid], check=False)
    while "train still runs" in doctor(committed, "--quick"):
        pass
    doctor(committed, "--quick", "--fix")
    assert not left.exists()


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
