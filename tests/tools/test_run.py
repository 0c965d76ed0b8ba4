"""The decisions of `make run`; tests/pipeline/test_repro.py has the rest."""

import os
import pwd
from collections.abc import Callable

import pytest

from tests.project import MIRROR, Project, copy_of, executed, lend_environment, needs_mnist


@pytest.mark.slow
@needs_mnist
def test_prepared_data_that_a_colleague_has_pushed_needs_no_source(project: Project):
    project.edit("params.yaml", "epochs: 10", "epochs: 1")
    assert project.repro("prepare", MNIST_MIRROR=MIRROR) == ["prepare"]
    project.run("git", "commit", "--quiet", "--all", "--message=Train for one epoch")
    store = project.folder.parent / "store"
    project.run("dvc", "remote", "add", "--default", "team", str(store))
    project.run("git", "commit", "--quiet", "--all", "--message=Name a store")
    project.run("dvc", "push")

    colleague = Project(project.folder.parent / "colleague")
    project.run("git", "clone", "--quiet", ".", str(colleague.folder))
    lend_environment(colleague)
    nothing = {"MNIST_MIRROR": "/nowhere", "XDG_CACHE_HOME": str(colleague.folder / ".empty")}
    colleague.run("dvc", "pull", "prepare")
    output = colleague.run("make", "run", **nothing)
    assert "The prepared data is up to date; nothing needs to be downloaded." in output
    assert executed(output) == ["train", "evaluate", "export"]

    # The data is in DVC's cache only.
    colleague.run("rm", "-r", "data/prepared")
    output = colleague.run("make", "run", **nothing)
    assert "The prepared data is up to date; nothing needs to be downloaded." in output
    assert executed(output) == []


def test_params_are_checked_before_anything_runs(committed: Project):
    committed.edit("params.yaml", "epochs: 10", "epochs: -10")
    output = committed.run("make", "run", MNIST_MIRROR="/nowhere", fails=True)
    assert output.startswith("error: params.yaml: ")
    assert committed.git_status().split() == ["M", "params.yaml"]


def test_help_lists_each_target(project: Project):
    targets = [line.split()[1] for line in project.run("make").splitlines()]
    assert {"run", "check", "test", "doctor", "help"} <= set(targets)


def test_git_never_changes_line_ends(project: Project):
    """A checkout with CRLF could not run, and its files would have other checksums."""
    clone = Project(project.folder.parent / "clone")
    project.run("git", "clone", "--quiet", "--config=core.autocrlf=true", ".", str(clone.folder))
    assert "w/crlf" not in clone.run("git", "ls-files", "--eol")
    clone.run("git", "add", "--renormalize", ".")
    assert clone.git_status() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("target", ["run", "doctor", "compare", "reproduce"])
def test_another_users_checkout_is_one_line(
    committed: Project, target: str, explained: Callable[[str], None]
):
    """`make run` ended with 0, `make compare` with a traceback of pygit2."""
    committed.run("chown", "-R", "1000", ".")
    command = "make --no-print-directory " + target + " 2>&1 | grep -v '^make: '"
    output = committed.run("sh", "-c", command)
    assert output.startswith("error: ") and output.count("\n") == 1
    explained(output)
    committed.run("make", target, fails=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("frut", "no such folder in data/; use digits, "), ("2024", "put it into quotes")],
)
def test_the_name_of_no_data_set_is_one_line(
    committed: Project, name: str, reason: str, explained: Callable[[str], None]
):
    committed.edit("params.yaml", "dataset: digits", f"dataset: {name}")
    output = committed.run("make", "run", MNIST_MIRROR="/nowhere", fails=True)
    line = output.splitlines()[0]
    assert line.startswith(
        f"error: params.yaml: prepare.dataset: {name!r}".replace("'2024'", "2024")
    )
    assert reason in line
    explained(line)
    assert committed.git_status().split() == ["M", "params.yaml"]


@pytest.mark.parametrize("name", ["pipe.png", "caf\udce9.png"], ids=ascii)
def test_a_file_that_dvc_cannot_read_is_one_line(
    project: Project, name: str, explained: Callable[[str], None]
):
    """DVC waited for the pipe for ever, and failed on the name."""
    project.edit("params.yaml", "dataset: mnist", "dataset: symbols")
    path = project.folder / "data/symbols/arrow" / name
    os.mkfifo(path) if name == "pipe.png" else path.touch()
    lend_environment(project)
    output = project.run("make", "run", fails=True).splitlines()[0]
    assert output.startswith("error: data/symbols/arrow/")
    explained(output)


def test_a_clone_in_a_folder_with_braces_is_one_line(
    committed: Project, explained: Callable[[str], None]
):
    """DVC's own progress bar fails on them."""
    clone = copy_of(committed, committed.folder / "a{b")
    output = clone.run("make", "run", fails=True)
    explained(output.splitlines()[0])


def test_make_gives_dvc_the_users_name_and_home_if_they_are_not_set(project: Project):
    """A user ID without an entry in /etc/passwd has neither, and DVC ended in tracebacks."""
    show = 'show: ; @printf "[%s]" "$$USER" "$$HOME"'
    output = project.run("env", "-u", "USER", "-u", "HOME", "make", "--eval", show, "show")
    user = pwd.getpwuid(os.getuid())
    assert output == f"[{user.pw_name}][{user.pw_dir}]"
    output = project.run("make", "--eval", show, "show", USER="me", HOME="/here")
    assert output == "[me][/here]"


def test_make_keeps_the_callers_path_and_drops_what_changes_python_and_git(project: Project):
    show = 'show: ; @printf "[%s]" "$$PATH" "$$PYTHONSAFEPATH" "$$GIT_DIR"'
    variables = {"PYTHONSAFEPATH": "1", "GIT_DIR": "/nonexistent", "PATH": os.environ["PATH"]}
    output = project.run("make", "--eval", show, "show", **variables)
    assert output == f"[{project.folder}/.venv/bin:{os.environ['PATH']}][][]"
