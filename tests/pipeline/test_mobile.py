"""`make mobile`: a DVC project below this one, with an environment of its own."""

import pytest

from stages.runtime.config import read_yaml
from tests.project import (
    MIRROR,
    ROOT,
    Project,
    default_params,
    executed,
    lend_environment,
    needs_mnist,
)


@pytest.mark.skipif(
    default_params() != (ROOT / "params.yaml").read_text(), reason="another model is committed"
)
def test_the_committed_files_are_those_of_the_committed_model():
    """If the model has changed: `make mobile`, and commit mobile/dvc.lock and mobile/metrics.json."""
    stages = read_yaml(ROOT / "dvc.lock")["stages"]
    written = {f"../{out['path']}": out["md5"] for one in stages.values() for out in one["outs"]}
    read = {
        dep["path"]: dep["md5"]
        for dep in read_yaml(ROOT / "mobile/dvc.lock")["stages"]["export"]["deps"]
    }
    assert len(read.keys() & written.keys()) == 3
    assert {path: written.get(path, md5) for path, md5 in read.items()} == read


@pytest.mark.network
@needs_mnist
def test_a_fresh_clone_gives_the_committed_files(project: Project):
    lend_environment(project)
    output = project.run("make", "mobile", MNIST_MIRROR=MIRROR)
    assert "models/model.int8.pte: " in output
    assert len(list((project.folder / "mobile/pictures").glob("[0-9]-*.png"))) == 20
    assert project.git_status() == ""
    assert "up to date" in project.run("dvc", "status")
    assert "mobile" not in project.run("dvc", "list", ".", "--recursive", "--dvc-only")
    assert executed(project.run("make", "mobile")) == []
    assert project.git_status() == ""
