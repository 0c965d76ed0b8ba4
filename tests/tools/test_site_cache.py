"""Only its user may write DVC's site cache, since DVC runs code in the pickles that it reads there."""

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.project import Project, lend_environment
from tools.working_tree import copy_working_tree

UNSET = {"DVC_SITE_CACHE_DIR": ""}  # the other tests set it
PIPELINE = {"stages": {"copy": {"cmd": "cp in out", "deps": ["in"], "outs": ["out"]}}}


@pytest.fixture
def clone(tmp_path: Path) -> Project:
    """A clone before `make install`, in a folder with a difficult name; its one stage is quick."""
    project = Project(tmp_path / 'it\'s "one", 50 %, $HOME' / "project")
    copy_working_tree(project.folder, without=("dvc.lock",))
    (project.folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    (project.folder / "in").write_text("some bytes")
    lend_environment(project)
    (project.folder / ".venv/run.installed").unlink()
    return project


def site_cache(project: Project) -> Path:
    return project.folder / ".dvc/site-cache"


def setting(project: Project) -> str:
    return project.run("dvc", "config", "core.site_cache_dir").strip()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def caches_in(folder: Path) -> list[Path]:
    """Return the caches of repositories in a site cache."""
    return list((folder / "repo").glob("*"))


def test_after_make_install_dvc_uses_a_private_folder(clone: Project):
    clone.run("make", "install", **UNSET)
    for command in ("repro", "status", "checkout"):
        clone.run("dvc", command, **UNSET)
    assert mode(site_cache(clone)) == 0o700
    assert len(caches_in(site_cache(clone))) == 1


def test_a_place_that_the_user_has_set_is_kept(clone: Project, tmp_path: Path):
    clone.run("sh", "tools/site_cache.sh")
    clone.run("dvc", "repro", DVC_SITE_CACHE_DIR=str(tmp_path / "elsewhere"))
    assert len(caches_in(tmp_path / "elsewhere")) == 1
    assert caches_in(site_cache(clone)) == []
    site_cache(clone).rmdir()
    clone.run("dvc", "config", "--local", "core.site_cache_dir", "/the/user's own")
    clone.run("sh", "tools/site_cache.sh")
    assert setting(clone) == "/the/user's own"
    assert not site_cache(clone).exists()


def test_a_second_call_only_repairs_the_mode(clone: Project):
    clone.run("dvc", "config", "--local", "core.checksum_jobs", "1")
    clone.run("sh", "tools/site_cache.sh")
    config = clone.read(".dvc/config.local")
    site_cache(clone).chmod(0o777)
    clone.run("sh", "tools/site_cache.sh")
    assert mode(site_cache(clone)) == 0o700
    assert clone.read(".dvc/config.local") == config
    assert b"checksum_jobs = 1" in config


def test_a_moved_clone_gets_its_new_folder(clone: Project, tmp_path: Path):
    clone.run("sh", "tools/site_cache.sh")
    shutil.move(clone.folder, tmp_path / "moved")
    moved = Project(tmp_path / "moved")
    nowhere = {name: "/dev/null/home" for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    moved.run("sh", "tools/site_cache.sh", **nowhere)  # it needs no home
    assert setting(moved) == str(site_cache(moved))
    assert mode(site_cache(moved)) == 0o700


def test_a_path_that_dvc_cannot_write_down_gives_way_to_the_users_cache(
    clone: Project, tmp_path: Path, explained: Callable[[str], None]
):
    """DVC would empty .dvc/config.local at the first letter that is not ASCII."""
    shutil.move(clone.folder, tmp_path / "café")
    clone = Project(tmp_path / "café")
    clone.run("dvc", "config", "--local", "core.checksum_jobs", "1")
    before = clone.read(".dvc/config.local")
    accented = {"XDG_CACHE_HOME": str(tmp_path / "café-cache")}
    output = clone.run("sh", "tools/site_cache.sh", **accented)
    assert output.startswith("warning: DVC's cache of checksums stays where every user of this ")
    assert output.count("\n") == 1
    explained(output)
    assert clone.read(".dvc/config.local") == before
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert clone.run("sh", "tools/site_cache.sh", **cache) == ""
    assert setting(clone) == f"{tmp_path}/cache/dvc-image-pipeline/site-cache"
    assert mode(Path(setting(clone))) == 0o700
