"""Experiments from a fresh clone leave no files that Git does not know."""

import json
import re
import time
from collections.abc import Callable
from statistics import mean

import pytest

from tests.project import Project

pytestmark = pytest.mark.slow

SWEEP = (
    *("--set-param", "recipes.tutorial.optimizer.learning_rate=0.001,0.01"),
    *("--set-param", "recipes.tutorial.network.dropout=0.0,0.4"),
)


def experiments(project: Project) -> dict[str, dict]:
    """Return the finished experiments on the current commit by name, as `dvc exp show` has them."""
    _, commit = json.loads(project.run("dvc", "exp", "show", "--json", "--no-fetch"))
    return {
        experiment["name"]: experiment["revs"][0]["data"]
        for experiment in commit["experiments"] or []
    }


@pytest.fixture
def no_experiments(committed: Project) -> Project:
    """The same without experiments, in a folder with an ASCII name, which DVC's queue needs."""
    project = Project(committed.folder.rename(committed.folder.with_name("project")))
    for name in experiments(project):
        project.run("dvc", "exp", "remove", name)
    return project


def test_a_sweep_runs_side_by_side_and_can_be_kept(no_experiments: Project):
    committed = no_experiments
    committed.run(
        "dvc", "exp", "run", "--queue", "--set-param", "recipes.tutorial.epochs=2", *SWEEP
    )
    committed.run("dvc", "queue", "start", "--jobs", "2")
    for _ in range(180):
        status = committed.run("dvc", "queue", "status")
        if "Queued" not in status and "Running" not in status:
            break
        time.sleep(1)
    committed.run("dvc", "queue", "stop")
    assert status.count("Success") == 4, status

    results = experiments(committed)
    names = {}
    for name, data in results.items():
        recipe = data["params"]["params.yaml"]["data"]["recipes"]["tutorial"]
        names[recipe["optimizer"]["learning_rate"], recipe["network"]["dropout"]] = name
    assert sorted(names) == [(0.001, 0.0), (0.001, 0.4), (0.01, 0.0), (0.01, 0.4)]
    assert committed.git_status() == ""
    table = committed.run("dvc", "exp", "show", "--only-changed", "--csv")
    assert "recipes.tutorial.optimizer.learning_rate" in table
    assert "recipes.tutorial.batch_size" not in table

    best = names[0.01, 0.0]
    committed.run("dvc", "exp", "branch", best, "best")
    assert "best" in committed.run("git", "branch")
    committed.run("dvc", "exp", "apply", best)
    assert committed.repro() == []
    metrics = json.loads(committed.read("metrics/evaluate.json"))
    expected = results[best]["metrics"]["metrics/evaluate.json"]["data"]
    assert metrics["accuracy"] == expected["accuracy"]
    assert "??" not in committed.git_status()


def test_seeds_are_trained_listed_and_compared(no_experiments: Project):
    no_experiments.edit("params.yaml", "recipe: tutorial", "recipe: fast")
    printed = {}
    for name, units in (("narrow", 2), ("wide", 96)):
        change = f"ARGS=-S recipes.fast.network.hidden_sizes=[{units}]"
        printed[name] = no_experiments.run("make", "seeds", f"NAME={name}", "N=3", change)
    found = experiments(no_experiments)
    assert found.keys() == {f"{name}-{seed}" for name in printed for seed in (1, 2, 3)}
    accuracies = {
        name: data["metrics"]["metrics/evaluate.json"]["data"]["accuracy"]
        for name, data in found.items()
    }
    means = {
        name: mean(accuracies[f"{name}-{seed}"] for seed in (1, 2, 3))
        for name in ("narrow", "wide")
    }
    for name, output in printed.items():
        assert f"| {name} | 3 | {means[name]:.2%} | " in output
    compared = no_experiments.run("make", "compare", "SEEDS=narrow wide")
    difference = 100 * (means["wide"] - means["narrow"])
    assert f"Difference: {difference:+.2f} percentage points" in compared
    assert "unlikely by chance alone" in compared
    shown = no_experiments.run("make", "experiments", COLUMNS="80")
    assert max(map(len, shown.splitlines())) <= 80
    rows = [line for line in shown.splitlines() if "[" in line]
    names = [re.findall(r"\[(.*)\]", row)[0] for row in rows]
    assert sorted(names, key=lambda name: -accuracies[name]) == names
    assert "seed" in shown and "hidden_sizes" in shown
    missing = no_experiments.run("make", "compare", "SEEDS=narrow nothing", fails=True)
    assert "error: nothing: 0 experiments of the name nothing-NUMBER; run some by" in missing


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
