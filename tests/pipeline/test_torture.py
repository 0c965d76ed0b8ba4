"""The short form of `make torture`."""

import pytest

from tests.pipeline.torture import torture
from tests.project import Project

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [101, 102])  # two, so that two cores share them
def test_a_killed_stage_leaves_no_trace_and_runs_again(committed: Project, seed: int):
    done, faults = torture(committed, kills=4, seed=seed)
    assert faults == []
    assert sum(done.values()) == 4
