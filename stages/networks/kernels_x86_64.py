"""Convolutions that are equal on every x86-64 processor with AVX2: all are oneDNN's.

PyTorch would take those of a few images from MKL.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

ENOUGH = 16  # images, of which PyTorch takes any convolution of float32 from oneDNN


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


KERNELS: dict[str, Callable] = {
    "_slow_conv2d_forward": small_convolution,
    "_slow_conv2d_backward.output_mask": small_convolution_gradients,
}
