"""Threads and the environment never change the weights."""

import subprocess
import sys
from pathlib import Path

import pytest

from stages import train
from stages.networks.checkpoint import WEIGHTS
from tests.pipeline import digests
from tests.project import ROOT, clean_environment
from tests.samples import RECIPES, run_stage

pytestmark = pytest.mark.slow

DIGEST = """
import contextlib, hashlib, io, sys, tempfile
from stages import train
from stages.networks.checkpoint import WEIGHTS
from tests.pipeline import digests
from tests.samples import run_stage
train.own_threads = lambda device: 1
with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    for recipe in ("tutorial", "convolutional"):
        digests.lay_out(recipe)
        with contextlib.redirect_stdout(io.StringIO()):
            run_stage(train.main)
        print(hashlib.sha256(WEIGHTS.read_bytes()).hexdigest())
"""


def trained_with(**environment: str) -> list[str]:
    """Return the checksums of the weights of two recipes, trained for two epochs in one process."""
    result = subprocess.run(
        [sys.executable, "-c", DIGEST],
        cwd=ROOT,
        env=clean_environment(ROOT) | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split()


def test_the_environment_never_changes_the_weights():
    expected = trained_with(NPY_ENABLE_CPU_FEATURES="AVX2")  # NumPy refuses it with NPY_DISABLE…
    environment = {
        **{"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        **{"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem"},
        **{"ONEDNN_MAX_CPU_ISA": "SSE41", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"},
        # MKL computes nothing.
        **{"MKL_CBWR": "COMPATIBLE", "MKL_VML_DEBUG_CPU_TYPE": "5"},
    }
    assert trained_with() == trained_with(**environment) == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_number_of_threads_never_changes_the_weights(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
):
    digests.lay_out(recipe)
    weights = set()
    for threads in (1, 2, 4):
        monkeypatch.setattr(train, "own_threads", lambda device, threads=threads: threads)
        run_stage(train.main)
        weights.add(WEIGHTS.read_bytes())
    assert len(weights) == 1
