"""The short form of `make torture`."""

import os

import pytest

from tests.pipeline.torture import torture
from tests.project import Project

KILLS = int(os.environ.get("KILLS", "20"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])  # two workers share the kills
def test_a_kill_at_any_moment_leaves_nothing_wrong(committed: Project, seed: int):
    _, wrong = torture(committed, KILLS // 2, seed)
    assert not wrong
