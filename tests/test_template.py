"""The commands by which CONTRIBUTING.md starts a project of one's own from this one."""

import re
import shutil

import pytest

from tests.project import ROOT, Project, executed

# Of each kind: the tree and its pins, a stage's inputs and outputs, the pipeline.
TESTS = ("tests/pipeline/test_rooms.py", "tests/runtime/test_config.py", "tests/test_train.py")
COMMITTED = "test_the_committed_results_are_those_of_the_committed_code"


@pytest.mark.slow
def test_a_project_of_ones_own_runs_and_passes_tests(project: Project):
    page = (ROOT / "CONTRIBUTING.md").read_text().partition("## A project of your own\n")[2]
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[:2]
    first, second = (
        [line[2:] for line in block.replace("<name>", "mine").splitlines()] for block in blocks
    )
    assert first[0].startswith("git clone") and second[0].startswith("make install")
    for command in first[1:]:
        project.run("sh", "-c", command)
    assert project.run("git", "log", "--format=%s").split("\n")[0] == "Start from the template"
    assert project.run("git", "grep", "-l", "dvc-image-pipeline", fails=True) == ""

    shutil.copytree(project.folder / "data/symbols", project.folder / "data/mine")
    experiment = second[1].replace("=photo", "=fast")
    assert executed(project.run("sh", "-c", experiment))[:2] == ["prepare", "train"]
    project.run("sh", "-c", second[2])
    assert project.git_status() == ""
    project.run("ruff", "check", ".")
    tests = [*TESTS, f"tests/pipeline/test_repro.py::{COMMITTED}"]
    command = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow")
    project.run(*command, *tests)
