"""A checkpoint is whole or discarded, belongs to one training, and never ends one."""

import os
import time
from pathlib import Path

import pytest

from stages.training import resume
from stages.training.resume import Checkpoint, decode

FINGERPRINT = {"code": "a", "params.yaml: train.seed": "0"}
STATE = {"epochs": [{"train": {"loss": 0.5}}]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dvc-image-pipeline/checkpoints"


def test_the_last_state_is_loaded_by_the_next_process(cache: Path):
    first = Checkpoint(FINGERPRINT)
    assert first.load() is None
    first.save({"epochs": []})
    first.save(STATE)
    second = Checkpoint(FINGERPRINT)
    assert decode(second.load()) == STATE
    second.remove()
    assert list(cache.iterdir()) == []


def test_another_training_has_another():
    Checkpoint(FINGERPRINT).save(STATE)
    assert Checkpoint(FINGERPRINT | {"params.yaml: train.seed": "1"}).load() is None


def test_two_processes_of_one_training_do_not_disturb_each_other(cache: Path):
    first, second = Checkpoint(FINGERPRINT), Checkpoint(FINGERPRINT)
    first.save(STATE)
    second.save(STATE)
    first.remove()
    second.save(STATE)
    second.remove()
    second.remove()
    assert list(cache.iterdir()) == []


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda _: b"no checkpoint", lambda content: content[:-30], flip_a_bit],
    ids=["empty", "other", "cut", "a bit"],
)
def test_a_damaged_checkpoint_is_discarded(cache: Path, damage, capsys: pytest.CaptureFixture[str]):
    checkpoint = Checkpoint(FINGERPRINT)
    checkpoint.save(STATE)
    [path] = cache.glob("*.pt")
    path.write_bytes(damage(path.read_bytes()))
    assert checkpoint.load() is None
    assert "is damaged; the training starts from the beginning" in capsys.readouterr().out
    checkpoint.save(STATE)
    assert decode(checkpoint.load()) == STATE


def test_an_abandoned_checkpoint_is_removed(cache: Path):
    Checkpoint({"a": "1"}).save(STATE)
    [abandoned] = cache.iterdir()
    old = time.time() - (resume.DAYS + 1) * 24 * 3600
    os.utime(abandoned, (old, old))
    Checkpoint({"a": "2"}).save(STATE)
    Checkpoint(FINGERPRINT)
    assert not abandoned.exists()
    assert len(list(cache.iterdir())) == 1


def test_a_cache_folder_that_cannot_be_written_costs_only_the_checkpoints(
    cache: Path, capsys: pytest.CaptureFixture[str]
):
    cache.parent.write_text("a file in its place")
    checkpoint = Checkpoint(FINGERPRINT)
    assert "note: no checkpoints are kept: " in capsys.readouterr().out
    checkpoint.save(STATE)
    assert checkpoint.load() is None
    checkpoint.remove()


def test_a_checkpoint_that_cannot_be_written_ends_no_training(
    cache: Path, capsys: pytest.CaptureFixture[str]
):
    checkpoint = Checkpoint(FINGERPRINT)
    checkpoint.save(STATE)
    [path] = cache.glob("*.pt")
    path.with_suffix(f".{os.getpid()}.tmp").mkdir()
    checkpoint.save(STATE)
    checkpoint.save(STATE)
    assert capsys.readouterr().out.count("no checkpoints are kept: ") == 1
    checkpoint.remove()
