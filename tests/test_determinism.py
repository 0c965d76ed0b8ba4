import subprocess
import sys

import pytest
from conftest import ROOT, clean_environment

pytestmark = pytest.mark.slow

DIGEST = """
import sys; sys.path.insert(0, "stages")
from common.determinism import fix_arithmetic, fix_training
import hashlib, torch
from common.networks import build
from common.params import load_params
from train import train
fix_arithmetic(threads=int(sys.argv[1]))
fix_training(seed=0)
images = torch.randint(0, 256, (320, 28, 28), dtype=torch.uint8)
network = build([96, 256], ["tanh", "sigmoid"], 0.2)
list(train(network, images, torch.arange(320) % 10, load_params().train))
weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
print(torch.get_num_threads(), hashlib.sha256(weights).hexdigest())
"""


def digest(threads: int = 1, **environment: str) -> str:
    """Return the checksum of what ten epochs on 320 images give in a process of their own."""
    return subprocess.run(
        [sys.executable, "-c", DIGEST, str(threads)],
        cwd=ROOT,
        env=clean_environment(ROOT) | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def expected() -> str:
    return digest()


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
        # MKL then finds an AVX2 processor, as far as it can see.
        {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ],
    ids=" ".join,
)
def test_the_environment_does_not_show_in_the_weights(expected: str, environment: dict[str, str]):
    assert digest(**environment) == expected


def test_the_number_of_threads_is_the_parameters(expected: str):
    assert expected.split(maxsplit=1)[0] == "1"
    assert digest(threads=2).split()[0] == "2"
