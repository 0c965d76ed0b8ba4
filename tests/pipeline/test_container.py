"""The image of the Dockerfile, built and run by Buildah: `make container`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import MIRROR, Project

PUBLISHED = "debian:bookworm-slim"
BASE, IMAGE = "dvc-image-pipeline-base", "dvc-image-pipeline-test"
# The settings of a machine that reaches packages by mirrors.
SETTINGS = (
    "etc/apt/sources.list",
    "etc/apt/sources.list.d",
    "etc/pip.conf",
)

pytestmark = pytest.mark.network


def run(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image that the Dockerfile starts from, or one of Debian's packages if it cannot be pulled."""
    assert shutil.which("buildah"), "install buildah and debootstrap"
    pull = ["buildah", "pull", PUBLISHED]
    if subprocess.run(pull, capture_output=True, check=False).returncode == 0:
        yield PUBLISHED
        return
    root = tmp_path_factory.mktemp("debian") / "root"
    mirrors = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    run("debootstrap", "--variant=minbase", "bookworm", root, mirrors.split()[0])
    for name in SETTINGS:
        source = Path("/", name)
        if source.is_dir():
            shutil.copytree(source, root / name, dirs_exist_ok=True, symlinks=True)
        elif source.exists():
            shutil.copy2(source, root / name)
    container = run("buildah", "from", "scratch").strip()
    run("buildah", "add", container, root, "/")
    run("buildah", "commit", "--rm", container, BASE)
    yield BASE
    run("buildah", "rmi", BASE)


def test_the_image_gives_the_committed_results(project: Project, base: str):
    assert MIRROR and Path(MIRROR).is_dir(), "set MNIST_MIRROR to a folder"
    own: list[str] = []
    for name in ("PIP_CERT", "PIP_FIND_LINKS"):
        if path := os.environ.get(name):
            own += ["--volume", f"{path}:/host{path}:ro", "--env", f"{name}=/host{path}"]
            own += ["--build-arg", "PIP_EXTRA_INDEX_URL="]
    own += ["--from", base, "--tag", IMAGE]
    run("buildah", "build", "--isolation=chroot", *own, project.folder)
    container = run("buildah", "from", IMAGE).strip()
    mirror = ("--volume", f"{MIRROR}:/mnist:ro", "--env", "MNIST_MIRROR=/mnist")
    try:
        output = run(
            *("buildah", "run", "--isolation=chroot", *mirror, container),
            *("sh", "-c", "make run && git status --porcelain"),
        )
    finally:
        run("buildah", "rm", container)
        run("buildah", "rmi", IMAGE)
    assert "Running stage 'train'" in output
    assert output.splitlines()[-1].startswith("metrics/evaluate.json")  # and no changed file
