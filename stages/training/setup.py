"""What is settled before a training: the device, the random numbers, the kernels."""

import os
import platform

import numpy as np
import torch

from stages import COMMON_BYTES
from stages.common.errors import UserError
from stages.common.processes import is_child, usable_cores
from stages.training import launch


def pick_device(name: str) -> torch.device:
    """Return the device for `train.device`; "auto" is CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    asked = name
    if name == "auto":
        name = available[0]
    if name not in available:
        raise UserError(
            f"params.yaml: train.device: {name!r} is not on this machine or in this build of "
            f"torch; here are {', '.join(available)}, or use auto"
        )
    if name != "cpu":
        # "auto" may be another device elsewhere, under the same key of DVC's.
        found = "auto is " if asked == "auto" else ""
        print(
            f"note: train.device: {found}{name}: the last digits of the weights differ from those of a "
            "CPU, and may from those of another such device (docs/reproducibility.md)"
        )
    if name == "cuda" and is_child():
        return torch.device(name, own_gpu())
    return torch.device(name)


def own_gpu() -> int:
    """Return the number of the GPU of this process, one of several on this host.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    number, gpus = launch.place()["local_rank"], torch.cuda.device_count()
    if number >= gpus:
        raise UserError(
            f"PET_NPROC_PER_NODE: more than this host's {gpus} GPUs; use at most {gpus}"
        )
    torch.cuda.set_device(number)
    return number


def own_cores() -> int:
    """Return this process's share of the cores, which others of the training may use, too."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def processor(device: torch.device) -> str:
    """Return what all processors that give the same bytes have in common."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} with CUDA {torch.version.cuda}"
    if COMMON_BYTES:
        return "x86-64 with AVX2 under Linux"
    return f"{platform.machine()} under {platform.system()}"


def fix_randomness(seed: int) -> None:
    """Draw the same random numbers each time, by the same kernels.

    It seeds torch's global generator, from which initial weights and dropout are drawn.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it the next line refuses CUDA
    # As torch.use_deterministic_algorithms(True), which imports torch's compiler, a second and a half.
    torch.set_deterministic_debug_mode("error")
    # It would also fill new memory with NaN before each use, which nothing here reads.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # Adam's moments of always dark pixels decay into denormals, which are slow.
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)


def draws(seed: int, epoch: int, batch: int = 0, part: int = 0) -> torch.Generator:
    """Return the generator, on the CPU, for what is random in one part of one batch of one epoch.

    Batch 0 is the epoch itself: the order of its images. Since nothing is drawn from one generator
    after the other, any process can draw any part, and a training can go on at any epoch.
    """
    mixed = np.random.SeedSequence((seed, epoch, batch, part)).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))
