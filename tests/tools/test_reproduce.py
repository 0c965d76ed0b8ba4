import json
import re
from collections.abc import Callable

import pytest

from tests.project import Project, lend_environment

LIST = """stages:
  list:
    cmd: ls data/mine/a > names
    deps: [data/mine]
    outs: [names]
"""


def test_pictures_of_dvc_add_are_in_the_clone(project: Project, explained: Callable[[str], None]):
    """DVC ended with: missing data 'source'."""
    lend_environment(project)
    project.edit("params.yaml", "dataset: mnist", "dataset: mine")
    (project.folder / "dvc.yaml").write_text(LIST)
    folder = project.folder / "data/mine/a"
    folder.mkdir(parents=True)
    (folder / "1.png").write_text("a picture")
    project.run("dvc", "repro")
    project.run("git", "commit", "--quiet", "--all", "--message=List the names")
    output = project.run("make", "reproduce", fails=True)
    assert "error: data/mine: in neither Git nor DVC; run " in output
    explained(output)

    project.run("dvc", "add", "data/mine")
    project.run("git", "add", "data")
    project.run("git", "commit", "--quiet", "--message=Keep the pictures in DVC")
    output = project.run("make", "reproduce")
    assert "> ls data/mine/a > names" in output
    assert "Same bytes: all files" in output


@pytest.mark.slow
def test_the_committed_results_are_reproduced_or_not(committed: Project):
    """In a temporary clone: the project's own files and cache stay as they are."""
    committed.edit("params.yaml", "recipe: tutorial", "recipe: fast")  # is not committed
    output = committed.run("make", "reproduce")
    assert "uncommitted changes do not count" in output
    assert "Same bytes: all files" in output
    assert committed.git_status().split() == ["M", "params.yaml"]

    # A subfolder, which Git did not clone; and a hook, where Git cloned the repository of GIT_DIR.
    committed.run("git", "checkout", "--quiet", "params.yaml")
    metrics = committed.folder / "metrics/evaluate.json"
    metrics.write_text(metrics.read_text().replace("0.9", "0.8"))
    committed.run(
        "sh",
        "-c",
        "mv .git .. && cd .. && git add --all . && git commit --quiet -m 'A better number'",
    )
    output = committed.run("make", "reproduce", fails=True, GIT_DIR="/nonexistent")
    [line] = re.findall(r"^\+\+\+ .*", output, re.MULTILINE)
    assert line.rstrip('"\t').endswith("/metrics/evaluate.json")  # Git quotes the folder
    assert "\nNOT THE SAME BYTES, see above.\n" in output
    assert "\ntorch: 2." in output

    # As on Arm64, if its checksums were those of this machine.
    expected = json.loads(committed.read("tests/pipeline/digests.json"))["tutorial"]
    for name in ("digests.json", "digests-arm64.json"):
        (committed.folder / "tests/pipeline" / name).write_text(json.dumps({"tutorial": expected}))
    committed.run("git", "commit", "--quiet", "--all", "--message=Short checksums")
    code = "import platform, tools.reproduce; platform.machine = lambda: 'aarch64'; "
    output = committed.run("python", "-c", code + "tools.reproduce.main()")
    assert "As committed are code, parameters and prepared data." in output
    assert "NOT THE SAME BYTES" not in output

    committed.run("git", "rm", "--quiet", "dvc.lock")
    committed.run("git", "commit", "--quiet", "--message=Without it")
    output = committed.run("make", "reproduce", fails=True)
    assert "error: `git cat-file -e HEAD:./dvc.lock` failed, see above" in output
