from pathlib import Path

import pytest

from tests.project import Project
from tools.reproduce import differences

LOCK = (Path(__file__).parents[2] / "dvc.lock").read_text()


def md5(lock: str, file: str) -> str:
    return lock.partition(f"path: {file}\n")[2].split("md5: ")[1].split()[0]


def test_equal_locks_do_not_differ():
    assert differences(LOCK, LOCK) == []


def test_only_the_first_stage_that_differs_is_told():
    """Evaluate reads other weights then, too; that is no news."""
    weights, metrics = md5(LOCK, "models/model_weights.pth"), md5(LOCK, "metrics/train.json")
    found = LOCK.replace(weights, "a" * 32).replace(metrics, "b" * 32)
    assert differences(LOCK, found) == [
        "The stage train is the first that differs. It",
        f"  writes metrics/train.json: {metrics} committed, {'b' * 32} here",
        f"  writes models/model_weights.pth: {weights} committed, {'a' * 32} here",
    ]


@pytest.mark.slow
def test_the_committed_results_are_reproduced_or_not(committed: Project):
    """In a temporary clone: the project's own files and cache stay as they are."""
    committed.edit("params.yaml", "recipe: tutorial", "recipe: fast")  # is not committed
    output = committed.run("make", "reproduce")
    assert "What is changed in the workspace, and not committed, does not count." in output
    assert "Same bytes: each file" in output
    assert committed.git_status().split() == ["M", "params.yaml"]

    committed.run("git", "checkout", "--quiet", "params.yaml")
    evaluated = md5(committed.read("dvc.lock").decode(), "metrics/evaluate.json")
    committed.edit("dvc.lock", evaluated, "a" * 32)
    committed.run("git", "commit", "--quiet", "--all", "--message=Other bytes")
    output = committed.run("make", "reproduce", fails=True)
    assert "The stage evaluate is the first that differs. It\n" in output
    assert f"  writes metrics/evaluate.json: {'a' * 32} committed, {evaluated} here\n" in output
    assert "\ncpu: " in output
    assert "\ntorch: 2.13.0" in output
