"""A training that starts from a file of weights: DVC tracks it as it tracks data."""

from collections.abc import Callable

from tests.project import Project, lend_environment


def test_weights_are_a_tracked_input(project: Project, explained: Callable[[str], None]):
    lend_environment(project)
    project.edit("params.yaml", "dataset: mnist", "dataset: symbols")
    project.edit("params.yaml", "recipe: tutorial", "recipe: fast")
    project.run("dvc", "repro", "train")
    path = "initial_weights: weights/{} "
    project.edit("params.yaml", path.format("none"), path.format("earlier.pth"))
    line = project.run("python", "-m", "tools.check", fails=True)
    assert "'weights/earlier.pth' is not allowed: no such file; use weights/none, or" in line
    explained(line)
    assert project.run("dvc", "status", "train").count("changed") > 0

    project.run("cp", "models/model_weights.pth", "weights/earlier.pth")
    project.run("dvc", "add", "weights/earlier.pth")
    assert "?? weights/.gitignore\n?? weights/earlier.pth.dvc\n" in project.git_status()
    project.run("python", "-m", "tools.check")
    output = project.run("dvc", "repro", "train")
    assert "Starting from weights/earlier.pth; random: nothing\n" in output
    assert project.repro("train") == []

    weights = project.folder / "weights/earlier.pth"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:1000])
    output = project.run("dvc", "repro", "train", fails=True)
    line = next(line for line in output.splitlines() if line.startswith("error: "))
    assert line.startswith("error: weights/earlier.pth: no file of weights alone (")
    explained(line)


def test_an_output_is_no_input(project: Project, explained: Callable[[str], None]):
    project.edit("params.yaml", "weights: weights/none", "weights: models/model_weights.pth")
    for command in (["python", "-m", "tools.check"], ["dvc", "repro"]):
        explained(project.run(*command, fails=True))
