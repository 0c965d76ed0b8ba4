"""What is settled before a training: the device, the random numbers, the kernels."""

import os

import torch

from stages.common.errors import UserError


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
    if name == "auto":
        name = available[0]
    if name not in available:
        raise UserError(
            f"params.yaml: train.device: {name!r} is not on this machine or in this build of "
            f"torch; here are {', '.join(available)}, or use auto"
        )
    if name != "cpu":
        print(
            f"note: train.device: {name}: the last digits of the weights differ from those of a CPU, "
            "and may from those of another such device (docs/reproducibility.md)"
        )
    return torch.device(name)


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
