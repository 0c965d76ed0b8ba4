"""The lock files have the very pins of the requirements files, and hashes for each.

tests/pipeline/test_cache_keys.py has that no stage depends on them.
"""

import re

import pytest

from tests.pipeline.test_pins import pins
from tests.project import ROOT

LOCKS = {
    "requirements.lock": ["stages/requirements.txt", "requirements.txt"],
    "requirements-dev.lock": ["requirements-dev.txt"],
}
TWO_BUILDS = {"torch", "torchvision"}  # PyPI's and PyTorch's own: no hash fits both
PIN = re.compile(r"([a-z0-9.-]+)==([\w.]+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_the_pins_of_its_files_and_nothing_else(lock: str):
    text = (ROOT / lock).read_text()
    head, _, body = text.partition("\n\n")
    assert all(line.startswith("#") for line in head.splitlines())
    assert PIN.sub("", body) == ""
    locked = {name: version for name, version, _ in PIN.findall(body)}
    pinned = {name: version for file in LOCKS[lock] for name, version in pins(file).items()}
    assert locked == {name: pinned[name] for name in pinned.keys() - TWO_BUILDS}
    assert "://" not in text  # no index of whoever made it


def test_torch_is_pinned_all_the_same():
    assert pins("stages/requirements.txt").keys() >= TWO_BUILDS
