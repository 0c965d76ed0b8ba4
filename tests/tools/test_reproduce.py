import pytest

from tests.project import Project


@pytest.mark.slow
def test_the_committed_results_are_reproduced_or_not(committed: Project):
    """In a temporary clone: the project's own files and cache stay as they are."""
    committed.edit("params.yaml", "recipe: tutorial", "recipe: fast")  # is not committed
    output = committed.run("make", "reproduce")
    assert "uncommitted changes do not count" in output
    assert "Same bytes: all files" in output
    assert committed.git_status().split() == ["M", "params.yaml"]

    committed.run("git", "checkout", "--quiet", "params.yaml")
    metrics = committed.folder / "metrics/evaluate.json"
    metrics.write_text(metrics.read_text().replace("0.9", "0.8"))
    committed.run("git", "commit", "--quiet", "--all", "--message=A better number")
    output = committed.run("make", "reproduce", fails=True)
    assert "\n+++ b/metrics/evaluate.json\n" in output
    assert "\nNOT THE SAME BYTES, see above.\n" in output
    assert "\ntorch: 2." in output

    committed.run("git", "rm", "--quiet", "dvc.lock")
    committed.run("git", "commit", "--quiet", "--message=Without it")
    output = committed.run("make", "reproduce", fails=True)
    assert "error: `git cat-file -e HEAD:./dvc.lock` failed, see above" in output


@pytest.mark.slow
def test_a_project_in_a_subfolder_and_a_hooks_variables(committed: Project):
    """Git cloned no subfolder, and in a hook the repository of GIT_DIR."""
    committed.run(
        "sh", "-c", "mv .git .. && cd .. && git add --all . && git commit --quiet -m Move"
    )
    output = committed.run("make", "reproduce", GIT_DIR="/nonexistent")
    assert "Same bytes: all files" in output
