"""What makes the same parameters give the same bytes."""

import os

import torch


def fix_arithmetic(threads: int) -> None:
    """Make torch round every sum in the same way; call it before the first tensor is computed.

    Sums are split by thread and by the width of the vector registers, and rounded so. Processors with
    AVX-512 are told to compute as those with AVX2, so that both give the same bytes (MKL does this for
    Intel's processors only). The variables are read once, at the first computation.
    """
    if torch.cpu.get_capabilities().get("avx2"):
        os.environ["ATEN_CPU_CAPABILITY"] = "avx2"
        os.environ["MKL_CBWR"] = os.environ["MKL_ENABLE_INSTRUCTIONS"] = "AVX2"
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    torch.set_num_threads(threads)


def fix_training(seed: int) -> None:
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
