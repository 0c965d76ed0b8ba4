"""Experiments that DVC or a stage refuses, and what they leave behind."""

from collections.abc import Callable

import pytest

from tests.project import Project

pytestmark = pytest.mark.slow


def test_dvc_refuses_unknown_recipes_and_keys(committed: Project, explained: Callable[[str], None]):
    for change in ("train.recipe=slow", "train.epochs=3"):
        explained(committed.run("dvc", "exp", "run", "--set-param", change, fails=True))


@pytest.fixture
def refused(committed: Project) -> Project:
    """The same after an experiment that changed the results, and one that `train` refused."""
    committed.run("dvc", "exp", "run", "--set-param", "train.recipe=fast", "evaluate")
    committed.run("dvc", "exp", "run", "--set-param", "recipes.fast.epochs=0", fails=True)
    return committed


def test_make_restore_goes_back_after_a_refused_experiment(refused: Project):
    """Git's index then says of changed files that they are unchanged."""
    refused.run("make", "restore")
    assert refused.run("dvc", "status") == "Data and pipelines are up to date.\n"
    assert refused.git_status() == ""
    assert_index_is_right(refused)


def test_what_is_committed_after_a_refused_experiment_is_what_is_there(refused: Project):
    refused.run("dvc", "exp", "run", "--set-param", "recipes.fast.epochs=2", "evaluate")
    refused.run("git", "commit", "--quiet", "--all", "--message=Keep the results of fast")
    assert refused.git_status() == ""
    assert_index_is_right(refused)


def assert_index_is_right(project: Project) -> None:
    """Assert that each file has the content that Git has of it."""
    listed = project.run("git", "ls-files", "--stage", "params.yaml", "dvc.lock", "metrics")
    for line in listed.splitlines():
        (_, blob, _), path = line.split("\t")[0].split(), line.split("\t")[1]
        assert project.run("git", "hash-object", path).strip() == blob, path
