"""Replaces PyTorch's CPU-dependent kernels by kernels that are equal on every processor with AVX2.

PyTorch takes matrix products, tanh, sin and cos from Intel's MKL, which computes them in one way on
AMD's processors, in another on Intel's, and in a third with AVX-512. This module replaces mm, bmm,
addmm, tanh, sin and cos, for the whole process, by NumPy's, whose instructions `stages/__init__.py`
chooses. The convolution of a few images, an MKL product too, comes from oneDNN, as all larger ones do.
The stages execute nothing else of MKL's: tests/pipeline/test_bytes.py.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

import stages

if stages.TOO_EARLY:
    raise ImportError(
        f"imported before `stages`, which sets how to compute: {', '.join(stages.TOO_EARLY)}; restart "
        "Python and import `stages` first, or the last digits of the results differ"
    )

ENOUGH = 16  # images, of which PyTorch takes any convolution of float32 from oneDNN


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


def small_convolution(  # noqa: PLR0913, PLR0917  as the operator
    images: Tensor,
    weight: Tensor,
    kernel_size: list[int],
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
) -> Tensor:
    """Return the convolution of so few images that PyTorch would take it from MKL."""
    return torch.ops.aten.mkldnn_convolution(
        images, weight, bias, padding, stride, dilation=[1, 1], groups=1
    )


def small_convolution_gradients(  # noqa: PLR0913, PLR0917  as the operator
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    output_mask: list[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients by images, weight and bias, of those that `output_mask` asks for.

    Black images are added to reach oneDNN; their gradients are 0.
    """
    more = (0, 0) * 3 + (0, ENOUGH - len(images))
    by_images, by_weight, by_bias = torch.ops.aten.convolution_backward(
        pad(gradient, more),
        pad(images, more),
        weight,
        [len(weight)],
        stride,
        padding,
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=output_mask,
    )
    return by_images[: len(images)] if output_mask[0] else None, by_weight, by_bias


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
        "_slow_conv2d_forward": small_convolution,
        "_slow_conv2d_backward.output_mask": small_convolution_gradients,
    }.items():
        _kernels.impl(name, kernel, "CPU")
