"""Replaces kernels of PyTorch's that differ by processor; the new ones are equal on an architecture.

On x86-64, PyTorch takes matrix products, tanh, sin and cos from Intel's MKL, which computes them in one
way on AMD's processors, in another on Intel's, and in a third with AVX-512. On Arm64, its products are
those of OpenBLAS or NVIDIA's NVPL, by its build. This module replaces mm, bmm, addmm, tanh, sin and
cos, for the whole process, by NumPy's, whose instructions `stages/__init__.py` chooses. Convolutions
are those of `kernels_x86_64.py` or `kernels_arm64.py`. tests/pipeline/test_bytes.py lists what else
the stages execute.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import stages

if stages.TOO_EARLY:
    raise ImportError(
        f"imported before `stages`, which sets how to compute: {', '.join(stages.TOO_EARLY)}; restart "
        "Python and import `stages` first, or the last digits of the results differ"
    )

if stages.ARCHITECTURE == stages.X86_64:
    from stages.networks.kernels_x86_64 import KERNELS
elif stages.ARCHITECTURE == stages.ARM64:
    from stages.networks.kernels_arm64 import KERNELS
else:
    KERNELS = {}


@np.errstate(all="ignore")  # as PyTorch, which does not warn of what overflows
def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product, or the products of a batch of matrices, of two tensors."""
    return torch.from_numpy(np.matmul(a.numpy(force=True), b.numpy(force=True)))


def product_and_bias(
    bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """Return beta · bias + alpha · (a @ b); a linear layer has both 1."""
    scaled = product(a, b) if alpha == 1 else product(a, b) * alpha
    if beta == 0:  # which ignores NaN in the bias
        return scaled
    return scaled.add_(bias, alpha=beta)


def elementwise(function: np.ufunc) -> Callable[[Tensor], Tensor]:
    """Return a function of NumPy's as a kernel of PyTorch's."""

    def kernel(values: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(function(values.numpy(force=True))))

    return kernel


_kernels = torch.library.Library("aten", "IMPL")
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Warning only once for all operators")  # of replaced kernels
    for name, kernel in {
        "mm": product,
        "bmm": product,
        "addmm": product_and_bias,
        "tanh": elementwise(np.tanh),
        "sin": elementwise(np.sin),
        "cos": elementwise(np.cos),
        **KERNELS,
    }.items():
        _kernels.impl(name, kernel, "CPU")
