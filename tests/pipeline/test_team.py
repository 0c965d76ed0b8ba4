"""Two people, one Git server, one store."""

import json
import re
from pathlib import Path

import pytest

from tests.pipeline.stores import Store, use
from tests.project import ROOT, Project, executed

pytestmark = pytest.mark.slow


class Team:
    """A bare repository as the Git server, a folder as the store, and clones."""

    def __init__(self, start: Project, folder: Path):
        self.folder = folder
        (folder / "store").mkdir()
        self.store = Store(str(folder / "store"))
        start.run(
            "git", "clone", "--quiet", "--bare", str(start.folder), str(folder / "server.git")
        )

    def member(self, name: str) -> Project:
        member = Project(self.folder / name)
        Project(self.folder).run("git", "clone", "--quiet", "server.git", name)
        use(member, self.store)
        return member


@pytest.fixture
def team(committed: Project, tmp_path: Path) -> Team:
    team = Team(committed, tmp_path)
    use(committed, team.store)
    committed.run("dvc", "push", "--run-cache")
    return team


def publish(member: Project, branch: str) -> None:
    member.run("git", "commit", "--quiet", "--all", f"--message={branch}")
    member.run("git", "push", "--quiet", "origin", branch)
    member.run("dvc", "push", "--run-cache")


def test_a_colleague_sees_the_changes_of_a_branch_and_runs_nothing(team: Team):
    author = team.member("author")
    author.run("git", "switch", "--quiet", "--create", "faster")
    author.edit("params.yaml", "learning_rate: 1.0e-3", "learning_rate: 2.0e-3")
    assert executed(author.run("dvc", "repro", "--pull")) == ["train", "evaluate", "export"]
    publish(author, "faster")

    colleague = team.member("colleague")
    colleague.run("git", "switch", "--quiet", "faster")
    assert executed(colleague.run("dvc", "repro", "--pull")) == []
    assert colleague.read("models/model.pth") == author.read("models/model.pth")
    assert colleague.git_status() == ""

    colleague.run("git", "fetch", "--quiet", "origin", "main:main")
    params = json.loads(colleague.run("dvc", "params", "diff", "main", "--json"))
    assert params == {
        "params.yaml": {
            "recipes.tutorial.optimizer.learning_rate": {"old": 0.001, "new": 0.002, "diff": 0.001}
        }
    }
    # --all: the accuracy on 297 images may happen to be the same.
    metrics = json.loads(colleague.run("dvc", "metrics", "diff", "main", "--all", "--json"))
    on_main = json.loads(colleague.run("git", "show", "main:metrics/evaluate.json"))
    here = json.loads(colleague.read("metrics/evaluate.json"))
    for name in ("accuracy", "loss"):
        row = metrics["metrics/evaluate.json"][name]
        assert (row["old"], row["new"]) == (on_main[name], here[name])
    assert here["loss"] != on_main["loss"]
    plots = json.loads(colleague.run("dvc", "plots", "diff", "main", "--json"))["data"]
    for plot in ("metrics/epochs.csv", "metrics/predictions.csv"):
        assert {rev for view in plots[plot] for rev in view["revisions"]} == {"workspace", "main"}
    assert colleague.git_status() == ""


SWEEP = """\
--name slow -S train.recipe=fast -S recipes.fast.optimizer.learning_rate=2.0e-3
--name quick -S train.recipe=fast -S recipes.fast.optimizer.learning_rate=8.0e-3
"""


def test_hosts_share_a_sweep(team: Team):
    """By the commands of docs/experiments.md."""
    page = (ROOT / "docs/experiments.md").read_text()
    queue, run, push = (
        re.search(rf"^\$ ({start}.*?)(?: +#.*)?$", page, re.MULTILINE)[1]
        for start in ("awk ", "dvc exp run --run-all", "dvc exp push origin")
    )
    names = []
    for number in ("0", "1"):
        host = team.member(f"host {number}")
        (host.folder / "sweep.txt").write_text(SWEEP)
        host.run("dvc", "pull")
        host.run("bash", "-ec", queue, HOST=number, HOSTS="2")
        output = host.run("bash", "-ec", run)
        assert set(executed(output)) == {"train", "evaluate", "export"}
        names.append(sorted(re.findall(r"^Reproducing experiment '(.+)'", output, re.MULTILINE)))
        host.run("bash", "-ec", push)
        assert host.git_status() == "?? sweep.txt\n"
    assert names == [["quick"], ["slow"]]

    desk = team.member("desk")
    desk.run("dvc", "exp", "pull", "origin")
    _, commit = json.loads(desk.run("dvc", "exp", "show", "--json", "--no-fetch"))
    assert {experiment["name"] for experiment in commit["experiments"]} == {"slow", "quick"}
    desk.run("dvc", "exp", "apply", "quick")
    assert desk.repro() == []


def test_two_branches_that_both_changed_the_lock_can_be_merged(team: Team):
    member = team.member("member")
    member.run("dvc", "pull")
    for branch, old, new in (
        ("faster", "learning_rate: 1.0e-3", "learning_rate: 2.0e-3"),
        ("drier", "dropout: 0.2", "dropout: 0.1"),
    ):
        member.run("git", "switch", "--quiet", "--create", branch, "main")
        member.run("dvc", "checkout")
        member.edit("params.yaml", old, new)
        member.repro("evaluate")
        publish(member, branch)

    assert "CONFLICT (content): Merge conflict in dvc.lock" in member.run(
        "git", "merge", "faster", fails=True
    )
    # As the README says: take either side's results, then DVC makes those of the merged parameters.
    assert "    git checkout --ours -- dvc.lock metrics\n    dvc repro\n" in member.run(
        "python", "-m", "tools.doctor", fails=True
    )
    member.run("git", "checkout", "--ours", "--", "dvc.lock", "metrics")
    assert executed(member.run("dvc", "repro")) == ["train", "evaluate", "export"]
    member.run("git", "commit", "--quiet", "--all", "--message=Merge faster")
    assert member.repro() == []
    lock = member.read("dvc.lock").decode()
    assert "learning_rate: 0.002" in lock
    assert "dropout: 0.1" in lock
    assert "<<<<" not in lock


def test_an_experiment_travels_without_a_commit(team: Team):
    author = team.member("author")
    author.run("dvc", "pull")
    author.run("dvc", "exp", "run", "--name", "short", "--set-param", "recipes.tutorial.epochs=2")
    author.run("dvc", "exp", "push", "origin", "short")
    colleague = team.member("colleague")
    colleague.run("dvc", "exp", "pull", "origin", "short")
    colleague.run("dvc", "exp", "apply", "short")
    assert executed(colleague.run("dvc", "repro", "--pull")) == []
    assert colleague.read("models/model.pth") == author.read("models/model.pth")


def test_a_tagged_model_can_be_fetched(team: Team):
    author = team.member("author")
    for tag in ("image-classifier@v1.0.0", "image-classifier#prod#1"):
        author.run("git", "tag", "--annotate", "--message=Release", tag)
    author.run("dvc", "pull")
    elsewhere = Project(team.folder / "elsewhere")
    elsewhere.folder.mkdir()
    get = ("dvc", "artifacts", "get", str(author.folder), "image-classifier", "--out", "got.pth")
    author.edit("params.yaml", "epochs: 10", "epochs: 1")
    tagged = author.read("models/model.pth")
    author.repro()
    author.run("git", "commit", "--quiet", "--all", "--message=Train less")
    for choice in (("--rev", "v1.0.0"), ("--stage", "prod")):
        elsewhere.run(*get, "--force", *choice)
        assert elsewhere.read("got.pth") == tagged != author.read("models/model.pth")
    elsewhere.run(*get, "--force", "--rev", "v9.9.9", fails=True)
