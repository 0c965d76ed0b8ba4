import subprocess
import sys

import pytest

from tests.project import ROOT, clean_environment

pytestmark = pytest.mark.slow

DIGEST = """
import hashlib, sys
import stages
import torch
from stages.common.params import load_params
from stages.network.networks import build
from stages.training import feed_forward, loop
from stages.training.parallel import Group
from stages.training.setup import fix_randomness
from tests.samples import split_of
name, threads = sys.argv[1], int(sys.argv[2])
recipe = load_params().recipes[name].model_copy(update={"epochs": 2})
fix_randomness(seed=0)
images = torch.randint(0, 256, (320, 28, 28), dtype=torch.uint8)
split = split_of(images, torch.arange(320) % 10)
network = build(recipe.architecture, 10)
training = (
    feed_forward.Training(network, split, recipe, 0)
    if recipe.network == "feed_forward"
    else loop.Training(network, split, recipe, 0, Group(threads))
)
for epoch in (1, 2):
    training.epoch(epoch)
weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
print(hashlib.sha256(weights).hexdigest())
"""


def digest(recipe: str, threads: int = 1, **environment: str) -> str:
    """Return the checksum of what two epochs on 320 images give in a process of their own."""
    return subprocess.run(
        [sys.executable, "-c", DIGEST, recipe, str(threads)],
        cwd=ROOT,
        env=clean_environment(ROOT) | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module", params=["tutorial", "convolutional"])
def expected(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, digest(request.param)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem"},
        {"ONEDNN_MAX_CPU_ISA": "SSE41", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"},
        {"NPY_ENABLE_CPU_FEATURES": "AVX2"},
        # What no longer computes anything.
        {"MKL_CBWR": "COMPATIBLE", "MKL_VML_DEBUG_CPU_TYPE": "5"},
    ],
    ids=lambda environment: " ".join(environment) or "again",
)
def test_the_environment_does_not_show_in_the_weights(
    expected: tuple[str, str], environment: dict[str, str]
):
    recipe, weights = expected
    assert digest(recipe, **environment) == weights


def test_the_number_of_threads_does_not_show_in_the_weights():
    assert len({digest("convolutional", threads) for threads in (1, 2, 4)}) == 1
