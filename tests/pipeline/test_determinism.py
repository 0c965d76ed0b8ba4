"""Threads and the environment never change the weights."""

import subprocess
import sys

import pytest

from tests.project import ROOT, clean_environment
from tests.samples import RECIPES

pytestmark = pytest.mark.slow

DIGEST = """
import contextlib, hashlib, io, sys, tempfile
from stages import train
from stages.networks.checkpoint import WEIGHTS
from tests.pipeline import digests
from tests.samples import run_stage
recipe, *numbers = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    digests.lay_out(recipe)
    for threads in map(int, numbers):
        train.own_threads = lambda device: threads
        with contextlib.redirect_stdout(io.StringIO()):
            run_stage(train.main)
        print(hashlib.sha256(WEIGHTS.read_bytes()).hexdigest())
"""


def digests(recipe: str, *threads: int, **environment: str) -> list[str]:
    """Return the checksum of the weights of two epochs, for each number of threads."""
    result = subprocess.run(
        [sys.executable, "-c", DIGEST, recipe, *map(str, threads)],
        cwd=ROOT,
        env=clean_environment(ROOT) | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split()


@pytest.fixture(scope="module", params=["tutorial", "convolutional"])
def expected(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    return request.param, digests(request.param, 1)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem"},
        {"ONEDNN_MAX_CPU_ISA": "SSE41", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"},
        {"NPY_ENABLE_CPU_FEATURES": "AVX2"},
        # MKL computes nothing.
        {"MKL_CBWR": "COMPATIBLE", "MKL_VML_DEBUG_CPU_TYPE": "5"},
    ],
    ids=lambda environment: " ".join(environment) or "again",
)
def test_the_environment_never_changes_the_weights(
    expected: tuple[str, list[str]], environment: dict[str, str]
):
    recipe, weights = expected
    assert digests(recipe, 1, **environment) == weights


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_number_of_threads_never_changes_the_weights(recipe: str):
    one, two, four = digests(recipe, 1, 2, 4)
    assert one == two == four
