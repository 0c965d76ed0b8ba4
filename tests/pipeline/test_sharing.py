"""Results that one person has pushed reach another through every kind of store, unless damaged."""

import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.pipeline import stores
from tests.pipeline.stores import Store, use
from tests.project import Project, executed

CACHED = ["data/prepared/train.safetensors", "models/model_weights.pth", "models/model.pth"]


@pytest.fixture
def author(committed: Project) -> Project:
    """Somebody who has run the pipeline and committed the result."""
    return committed


def clone(author: Project, name: str) -> Project:
    folder = author.folder.parent / name
    author.run("git", "clone", "--quiet", str(author.folder), str(folder))
    return Project(folder)


def flip_a_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def assert_a_damaged_object_is_refused(author: Project, store: Store) -> None:
    digest = hashlib.md5(author.read("models/model.pth")).hexdigest()
    store.change_object(f"files/md5/{digest[:2]}/{digest[2:]}", flip_a_byte)
    victim = clone(author, "victim")
    use(victim, store)
    victim.run("dvc", "pull", fails=True)
    assert not (victim.folder / "models/model.pth").exists()
    assert (victim.folder / "models/model_weights.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize("start", [stores.folder, stores.ssh, stores.webdav, stores.s3])
def test_pushed_results_need_no_run_by_a_colleague(
    author: Project, tmp_path: Path, start: Callable[[Path], AbstractContextManager[Store]]
):
    root = tmp_path / "store"
    root.mkdir()
    with start(root) as store:
        use(author, store)
        author.run("python", "-m", "tools.push")
        assert author.git_status() == ""

        colleague = clone(author, "colleague")
        use(colleague, store)
        assert executed(colleague.run("dvc", "repro", "--pull")) == []
        assert all(colleague.read(file) == author.read(file) for file in CACHED)
        assert colleague.git_status() == ""

        assert_a_damaged_object_is_refused(author, store)


def test_results_that_nobody_committed_are_found_again(author: Project, tmp_path: Path):
    with stores.folder(tmp_path) as store:
        use(author, store)
        author.edit("params.yaml", "recipe: tutorial", "recipe: fast")
        assert author.repro() == ["train", "evaluate", "export"]
        printed = author.run("python", "-m", "tools.push")
        assert re.search(r"^[\d,]+ files sent; the remote has the results of 7 runs", printed, re.M)
        again = author.run("python", "-m", "tools.push", "team")
        assert "\n0 files sent; " in f"\n{again}"

        def ask(name: str) -> tuple[Project, list[str]]:
            """Return a clone of the commit that asks for the author's parameters, and what it ran."""
            colleague = clone(author, name)
            use(colleague, store)
            colleague.edit("params.yaml", "recipe: tutorial", "recipe: fast")
            ran = executed(colleague.run("dvc", "repro", "--pull"))
            assert colleague.git_status() == author.git_status()
            for file in (*CACHED, "dvc.lock", "metrics/train.json", "metrics/evaluate.json"):
                assert colleague.read(file) == author.read(file), file
            return colleague, ran

        assert ask("colleague")[1] == []
        digest = hashlib.md5(author.read("metrics/train.json")).hexdigest()
        store.change_object(f"files/md5/{digest[:2]}/{digest[2:]}", flip_a_byte)
        assert ask("unlucky")[1] == ["train"]


def test_a_remote_that_is_missing_is_refused_in_one_line(author: Project):
    for name in ("", "nowhere"):
        printed = author.run("python", "-m", "tools.push", *name.split(), fails=True)
        assert printed.startswith("error: ") and printed.count("\n") == 1, printed
        assert "remote" in printed


@pytest.mark.slow
def test_a_store_behind_a_web_server_can_be_pulled(author: Project, tmp_path: Path):
    root = tmp_path / "store"
    root.mkdir()
    with stores.http(root) as store:
        use(author, Store(str(root / "objects")))
        author.run("dvc", "push")
        reader = clone(author, "reader")
        use(reader, store)
        reader.run("dvc", "pull")
        assert all(reader.read(file) == author.read(file) for file in CACHED)
        assert reader.git_status() == ""
        assert reader.repro() == []
        assert_a_damaged_object_is_refused(reader, store)
