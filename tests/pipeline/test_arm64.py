"""The same bytes on Arm64 processors, which QEMU emulates: `make arm64`."""

import json
import os
import subprocess

import pytest

from tests.pipeline import digests
from tests.project import ROOT

PYTHON = ROOT / ".venv/arm64/python"
PROCESSORS = os.environ.get("PROCESSORS", "cortex-a72 neoverse-v1").split()

pytestmark = pytest.mark.network


@pytest.mark.parametrize("processor", PROCESSORS)
def test_arm64_processors_give_the_committed_bytes(processor: str):
    names = [*digests.EMULATED, *digests.STEPS, "convolutional"]
    result = subprocess.run(
        [PYTHON, "-m", "tests.pipeline.digests", *names],
        cwd=ROOT,
        env=os.environ | {"PROCESSOR": processor},
        stdout=subprocess.PIPE,
        check=True,
    )
    expected = json.loads((ROOT / "tests/pipeline/digests-arm64.json").read_text())
    assert json.loads(result.stdout) == {name: expected[name] for name in names}
