"""The device that a training runs on, and how torch computes there."""

import os
import platform

import torch

from stages import ARCHITECTURE, ARM64
from stages.runtime.config import PARAMS
from stages.runtime.errors import UserError
from stages.runtime.processes import is_child, usable_cores


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
    chosen = available[0] if name == "auto" else name
    if chosen not in available:
        raise UserError(
            f"{PARAMS}: train.device: {name!r} is not on this machine or in this build of torch; here "
            f"are {', '.join(available)}, or use auto"
        )
    if chosen != "cpu":
        # "auto" may be another device elsewhere, under the same key of DVC's.
        print(
            f"note: train.device: {'auto is ' if name == 'auto' else ''}{chosen}: the last digits of "
            "the weights differ from those of a CPU, and may from those of another such device "
            "(docs/reproducibility.md)"
        )
    elif ARCHITECTURE == ARM64 and not is_child():
        print(
            "note: the last digits of the weights differ from those of x86-64: if the committed "
            "results were computed there, `git status` will show new ones (docs/reproducibility.md)"
        )
    if chosen == "cuda" and is_child():
        return torch.device(chosen, own_gpu())
    return torch.device(chosen)


def own_gpu() -> int:
    """Return the number of this process's GPU, one of several on this host.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= gpus:
        raise UserError(
            f"PET_NPROC_PER_NODE: more than this host's {gpus} GPUs; use at most {gpus}"
        )
    torch.cuda.set_device(number)
    return number


def own_threads(device: torch.device) -> int:
    """Return how many threads this process computes on: its share of the cores; 1 for a GPU."""
    if device.type != "cpu":
        return 1
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if is_child() else 1
    return max(1, usable_cores() // here)


def processor(device: torch.device) -> str:
    """Return a name for all processors that give the same bytes as this one."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} with CUDA {torch.version.cuda}"
    if ARCHITECTURE:
        return ARCHITECTURE.name
    return f"{platform.machine()} under {platform.system()}"


def compute_deterministically() -> None:
    """Have torch compute the same results each time, or refuse to."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it the next line refuses CUDA
    # As torch.use_deterministic_algorithms(True), which imports torch's compiler, a second and a half.
    torch.set_deterministic_debug_mode("error")
    # It would also fill new memory with NaN before each use, which nothing here reads.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Adam's moments of always dark pixels decay into denormals, which are slow.
    torch.set_flush_denormal(True)
