"""A checkpoint is whole or nothing, one training's, and never in the way."""

import os
import time
from pathlib import Path

import pytest

from stages.training import resume
from stages.training.resume import Checkpoint, decode

FACTS = {"code": "a", "params.yaml: train.seed": "0"}
STATE = {"rows": [(1, 0.5, 0.25, None, None)]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dvc-image-pipeline/checkpoints"


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_what_was_saved_is_there_for_the_next(cache: Path):
    first = Checkpoint(FACTS)
    assert first.load() is None
    first.save({"rows": []})
    first.save(STATE)
    first.close()  # as its process ends
    second = Checkpoint(FACTS)
    assert decode(second.load()) == STATE
    second.remove()
    assert files(cache) == []


def test_another_training_has_another():
    Checkpoint(FACTS).save(STATE)
    assert Checkpoint(FACTS | {"params.yaml: train.seed": "1"}).load() is None


def test_two_of_the_same_training_do_not_share_one(capsys: pytest.CaptureFixture[str]):
    first = Checkpoint(FACTS)
    first.save(STATE)
    second = Checkpoint(FACTS)
    assert "no checkpoints are kept: the same training runs" in capsys.readouterr().out
    assert second.load() is None
    second.save({"rows": []})
    second.remove()
    assert decode(first.load()) == STATE


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "other", "cut"])
def test_a_damaged_one_counts_for_nothing(
    cache: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
):
    checkpoint = Checkpoint(FACTS)
    checkpoint.save(STATE)
    [path] = cache.glob("*.pt")
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    assert checkpoint.load() is None
    assert "is damaged; training begins anew" in capsys.readouterr().out
    checkpoint.save(STATE)
    assert decode(checkpoint.load()) == STATE


def test_an_abandoned_one_is_removed_and_one_in_use_is_not(cache: Path):
    abandoned, used = Checkpoint({"a": "1"}), Checkpoint({"a": "2"})
    for one in (abandoned, used):
        one.save(STATE)
    abandoned.close()
    old = time.time() - (resume.DAYS + 1) * 24 * 3600
    for path in cache.iterdir():
        os.utime(path, (old, old))
    Checkpoint(FACTS)
    assert {path.stem for path in cache.iterdir()} == {
        used._path.stem,
        Checkpoint(FACTS)._path.stem,
    }


def test_a_cache_folder_that_cannot_be_written_costs_only_the_checkpoints(
    cache: Path, capsys: pytest.CaptureFixture[str]
):
    cache.parent.write_text("a file in its place")
    checkpoint = Checkpoint(FACTS)
    assert "note: no checkpoints are kept: " in capsys.readouterr().out
    checkpoint.save(STATE)
    assert checkpoint.load() is None
    checkpoint.remove()


def test_a_checkpoint_that_cannot_be_written_ends_no_training(
    cache: Path, capsys: pytest.CaptureFixture[str]
):
    checkpoint = Checkpoint(FACTS)
    checkpoint.save(STATE)
    [path] = cache.glob("*.pt")
    path.with_suffix(".tmp").mkdir()
    checkpoint.save(STATE)
    checkpoint.save(STATE)
    assert capsys.readouterr().out.count("no checkpoints are kept: ") == 1
    checkpoint.remove()
