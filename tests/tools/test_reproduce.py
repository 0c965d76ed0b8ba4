from pathlib import Path

import pytest

from tests.project import Project
from tools.reproduce import difference

LOCK = (Path(__file__).parents[2] / "dvc.lock").read_text()


def md5(lock: str, file: str) -> str:
    return lock.partition(f"path: {file}\n")[2].split("md5: ")[1].split()[0]


def test_equal_locks_do_not_differ():
    assert difference(LOCK, LOCK) is None


def test_only_the_first_stage_that_differs_is_told():
    """Evaluate reads other weights then, too; that is no news."""
    weights, metrics = md5(LOCK, "models/model_weights.pth"), md5(LOCK, "metrics/train.json")
    found = LOCK.replace(weights, "a" * 32).replace(metrics, "b" * 32)
    assert difference(LOCK, found) == (
        "train",
        [],
        [
            f"  metrics/train.json: {metrics} committed, {'b' * 32} here",
            f"  models/model_weights.pth: {weights} committed, {'a' * 32} here",
        ],
    )


def test_other_code_and_parameters_are_no_other_bytes():
    code = md5(LOCK, "stages/training")
    found = difference(
        LOCK, LOCK.replace(code, "a" * 32).replace("  recipe: tutorial", "  recipe: x")
    )
    assert found.stage == "train"
    assert found.read[0] == f"  stages/training: {code} committed, {'a' * 32} here"
    assert found.read[1].startswith("  params.yaml: {")
    missing = difference(LOCK.partition("  train:\n")[0], LOCK)
    assert missing.stage == "train"
    assert all(": None committed, " in line for line in missing.read)


@pytest.mark.slow
def test_the_committed_results_are_reproduced_or_not(committed: Project):
    """In a temporary clone: the project's own files and cache stay as they are."""
    committed.edit("params.yaml", "recipe: tutorial", "recipe: fast")  # is not committed
    output = committed.run("make", "reproduce")
    assert "What is changed in the workspace, and not committed, does not count." in output
    assert "Same bytes: each file" in output
    assert committed.git_status().split() == ["M", "params.yaml"]

    committed.run("git", "checkout", "--quiet", "params.yaml")
    metrics = committed.folder / "metrics/evaluate.json"
    metrics.write_text(metrics.read_text().replace("0.9", "0.8"))
    committed.run("git", "commit", "--quiet", "--all", "--message=A better number")
    output = committed.run("make", "reproduce", fails=True)
    assert "NOT COMPARABLE. These committed files are not those of" in output
    assert " M metrics/evaluate.json\n" in output

    evaluated = md5(committed.read("dvc.lock").decode(), "metrics/evaluate.json")
    committed.edit("dvc.lock", evaluated, "a" * 32)
    committed.run("git", "commit", "--quiet", "--all", "--message=Other bytes")
    output = committed.run("make", "reproduce", fails=True)
    assert "The first stage that differs is `evaluate`. It wrote:\n" in output
    assert f"  metrics/evaluate.json: {'a' * 32} committed, {evaluated} here\n" in output
    assert "\ncpu: " in output
    assert "\ntorch: 2.13.0" in output

    committed.run("git", "rm", "--quiet", "dvc.lock")
    committed.run("git", "commit", "--quiet", "--message=Without it")
    output = committed.run("make", "reproduce", fails=True)
    assert "error: dvc.lock is not committed, so there is nothing to compare" in output
