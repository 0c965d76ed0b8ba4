"""What `make run` decides; tests/pipeline/test_repro.py has the rest."""

import pytest

from tests.project import MIRROR, Project, executed, lend_environment, needs_mnist


@pytest.mark.slow
@needs_mnist
def test_prepared_data_that_a_colleague_has_pushed_needs_no_source(project: Project):
    for recipe in ("10", "2"):  # all recipes short, whichever counts
        text = project.read("params.yaml").decode()
        (project.folder / "params.yaml").write_text(
            text.replace(f"epochs: {recipe}\n", "epochs: 1\n")
        )
    lend_environment(project)
    output = project.run("make", "run", MNIST_MIRROR=MIRROR)
    assert "mnist: the four files are in " in output
    assert executed(output) == ["prepare", "train", "evaluate", "export"]
    project.run("git", "commit", "--quiet", "--all", "--message=Run")
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
    assert executed(output) == ["train", "export"]  # whose outputs were not pulled
    assert "embedded digits" not in output

    # The same where the data lies in DVC's cache only.
    colleague.run("rm", "-r", "data/prepared")
    output = colleague.run("make", "run", **nothing)
    assert "The prepared data is up to date; nothing needs to be downloaded." in output
    assert executed(output) == []
