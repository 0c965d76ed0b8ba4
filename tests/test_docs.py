"""The commands that the docs show run, and print what the docs show."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import MIRROR, ROOT, Project, default_params, lend_environment, needs_mnist
from tools.working_tree import copy_working_tree

# In one clone. Each page begins where the first command of all, `make run`, has ended.
PAGES = (
    "README.md",
    "docs/using-the-model.md",
    "docs/your-own-pictures.md",
    "docs/experiments.md",
)
# The starts of commands that are not run here, and why.
NOT_RUN = {
    "make test": "it runs this test",
    "ls ": "it prints columns on a terminal only",
    "make demo": "tests/predict/test_demo_page.py runs it",
    "curl ": "the same",
    "make plots ARGS=--watch": "it never ends; tests/pipeline/test_repro.py runs it",
    "dvc exp run -S train.recipe=tutorial": "README has such a command",
    "dvc exp run -S train.recipe=fast -S recipes.fast.epochs=3": "the same",
    "dvc exp run -S recipes.tutorial.optimizer.learning_rate=2e-3": "the same",
    "dvc exp run -S recipes.tutorial.network.dropout=0.3": "the same",
    "dvc exp run -S prepare.dataset=mine": "the pictures are the reader's",
    "python -m predict --labelled PICTURES": "the same",
    "dvc remote ": "tests/pipeline/test_sharing.py has a store",
    "make push": "the same",
    "dvc repro --pull": "the same",
    "git push": "the same",
    "git tag": "the same",
    "dvc artifacts": "the same",
    "dvc exp push": "the same",
    "dvc exp pull": "the same",
    "cat sweep.txt": "tests/pipeline/test_team.py has two hosts",
    "export HOST": "the same",
    "awk ": "the same",
    "dvc exp run --run-all": "the same",
}


def commands(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command in the blocks of a page, and the lines that the page shows below it."""
    for block in re.findall(r"^```console\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M):
        for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.M)[1:]:
            command, *lines = part.splitlines()
            yield re.sub(r"\s{2,}#.*|\s+# .*", "", command), lines


def comparable(text: str, project: Project) -> list[str]:
    """Return the lines of an output without what differs from run to run, or by processor.

    Without VNNI, ONNX Runtime's products of int8 saturate, and the accuracy is lower.
    """
    text = text.replace(str(project.folder.parent / "cache"), "/home/you/.cache")
    text = re.sub(r"^ [a-z]+-[a-z]+(?= +\d)", "EXPERIMENT", text, flags=re.M)  # a random name
    text = re.sub(r"(int8\S*: \S+ bytes, accuracy ).* from", r"\1HERE from", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def assert_shown(shown: list[str], printed: list[str], command: str) -> None:
    """Assert that lines were printed in this order, perhaps others between them.

    … stands for anything.
    """
    rest = iter(printed)
    for line in shown:
        pattern = re.escape(line).replace("…", ".*")
        found = line == "…" or any(re.fullmatch(pattern, one) for one in rest)
        assert found, f"{command}: {line!r} is not printed; this is:\n" + "\n".join(printed)


def run(project: Project, command: str) -> str:
    if command.endswith(" NAME"):  # of an experiment
        command = command[:-4] + project.run("dvc", "exp", "list", "--name-only").split()[-1]
    output = project.run("bash", "-c", command, BROWSER="true", MNIST_MIRROR=MIRROR, COLUMNS="80")
    while command.startswith("dvc queue start") and re.search(
        "Queued|Running", project.run("dvc", "queue", "status")
    ):
        time.sleep(1)
    return output


@pytest.mark.slow
@needs_mnist
@pytest.mark.skipif(
    default_params() != (ROOT / "params.yaml").read_text(),
    reason="params.yaml has other choices than those whose results the docs show",
)
def test_the_commands_of_the_docs_print_what_they_show(tmp_path: Path):
    project = Project(tmp_path / "project")
    copy_working_tree(project.folder)
    lend_environment(project)
    for page in PAGES:
        shown = list(commands(page))
        for number, (command, lines) in enumerate(shown):
            # A command that the page shows again, with its output, runs there.
            again = not lines and any(one == command and found for one, found in shown[number:])
            if again or command.startswith(tuple(NOT_RUN)):
                continue
            printed = comparable(run(project, command), project)
            assert_shown(comparable("\n".join(lines), project), printed, f"{page}: {command}")
        project.run("make", "restore")
        project.run("dvc", "exp", "remove", "--all-commits", fails=None)  # fails without any
        shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)  # stages run again
        assert project.git_status() == ""


def test_what_is_not_run_is_on_a_page():
    shown = [command for page in PAGES for command, _ in commands(page)]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in shown), start
