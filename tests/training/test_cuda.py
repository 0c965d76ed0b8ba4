"""Training on a GPU: the same bytes each time, and about the accuracy of the CPU."""

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.project import Project, Running, copy_of
from tests.training.test_processes import TRAIN, digest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here, or no build for it"),
]


@pytest.fixture(params=["tutorial", "convolutional"])
def on_gpu(project: Project, request: pytest.FixtureRequest) -> Project:
    """A project with prepared digits, which is set to train them on the GPU."""
    project.edit("params.yaml", "dataset: mnist ", "dataset: digits ")
    project.edit("params.yaml", "recipe: tutorial ", f"recipe: {request.param} ")
    project.run("python", "-m", "stages.prepare")
    project.edit("params.yaml", "device: cpu ", "device: cuda ")
    return project


def test_the_same_bytes_each_time_and_after_a_kill(on_gpu: Project, tmp_path: Path):
    other = copy_of(on_gpu, tmp_path / "other")
    assert "note: train.device: cuda: the last digits" in on_gpu.run(*TRAIN)
    killed = Running(other, *TRAIN)
    killed.wait_for("Epoch 2: ")
    killed.process.send_signal(signal.SIGKILL)
    killed.end(fails=True)
    assert "from a checkpoint" in other.run(*TRAIN)
    assert digest(other) == digest(on_gpu)


def test_as_accurate_as_on_the_cpu(on_gpu: Project):
    def accuracy() -> float:
        on_gpu.run(*TRAIN)
        on_gpu.run("python", "-m", "stages.evaluate")
        return json.loads(on_gpu.read("metrics/evaluate.json"))["accuracy"]

    found = accuracy()
    on_gpu.edit("params.yaml", "device: cuda ", "device: cpu ")
    assert found == pytest.approx(accuracy(), abs=0.02)


def test_each_process_has_a_gpu_of_its_own(on_gpu: Project):
    on_gpu.run(*TRAIN)
    expected, gpus = digest(on_gpu), torch.cuda.device_count()
    on_gpu.run(*TRAIN, PET_NPROC_PER_NODE=str(gpus))
    assert digest(on_gpu) == expected
    output = on_gpu.run(*TRAIN, PET_NPROC_PER_NODE=str(gpus + 1), fails=True)
    line = f"error: PET_NPROC_PER_NODE: more than this host's {gpus} GPUs; use at most {gpus}"
    assert line in output
    assert "Traceback" not in output
