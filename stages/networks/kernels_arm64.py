"""Convolutions that are equal on every Arm64 processor: each is a matrix product of NumPy's.

PyTorch takes them from oneDNN, Arm's Compute Library or NNPACK, as the processor is. oneDNN is turned
off, so that it computes nothing else either.

In the shapes below, N images of C channels give results of O channels, which have P pixels in all. A
kernel has K weights for a channel. G groups of channels have kernels of their own.
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

torch._C._set_mkldnn_enabled(False)  # the public set_flags warns of Intel's GPUs

BLOCK = 2**22  # values of patches at a time, 16 MB: each pixel is in K of them


def padded(images: Tensor, padding: list[int]) -> np.ndarray:
    """Return images [N, C, height, width] as [N, height, width, C], padded."""
    rows, columns = padding
    pixels = images.numpy(force=True).transpose(0, 2, 3, 1)
    return np.pad(pixels, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


def windows(
    pixels: np.ndarray, kernel: tuple[int, ...], stride: list[int], dilation: list[int]
) -> list[tuple[slice, ...]]:
    """Return, for each weight of a kernel, which of the padded pixels it multiplies."""
    axes = []
    for i in (0, 1):
        size, last = pixels.shape[1 + i], dilation[i] * (kernel[i] - 1)
        starts = range(0, last + 1, dilation[i])
        axes.append([slice(start, size - last + start, stride[i]) for start in starts])
    return list(product([slice(None)], *axes))


def blocks(shape: tuple[int, ...], values: int) -> Iterator[slice]:
    """Yield slices of images of the shape [N, height, width, ...], with as many values for a pixel."""
    images, height, width = shape[:3]
    size = max(1, BLOCK // (height * width * values))
    for start in range(0, images, size):
        yield slice(start, start + size)


def by_group(values: np.ndarray, groups: int) -> np.ndarray:
    """Return [..., K, C] as [G, P, K · C / G]."""
    *_, weights, channels = values.shape
    values = values.reshape(-1, weights, groups, channels // groups).transpose(2, 0, 1, 3)
    return values.reshape(groups, -1, weights * channels // groups)


def weight_by_group(weight: np.ndarray, groups: int) -> np.ndarray:
    """Return [O, C / G, height, width] as [G, K · C / G, O / G]."""
    outputs, inputs, height, width = weight.shape
    values = weight.reshape(groups, outputs // groups, inputs, height * width)
    return values.transpose(0, 3, 2, 1).reshape(groups, -1, outputs // groups)


@np.errstate(all="ignore")  # as PyTorch, which does not warn of what overflows
def convolution(  # noqa: PLR0913, PLR0917  as the operator
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    *flags: bool,
) -> Tensor:
    """Return the convolution, in the memory format that PyTorch chooses.

    Raises:
        NotImplementedError: it is a transposed one, or not one of images.
    """
    if transposed or images.dim() != 4:
        raise NotImplementedError(
            "on Arm64, no transposed convolution and no nn.Conv1d or nn.Conv3d gives equal bytes on "
            "all processors, so use nn.Conv2d"
        )
    pixels = padded(images, padding)
    parts = windows(pixels, weight.shape[2:], stride, dilation)
    weights = weight_by_group(weight.numpy(force=True), groups)
    results = np.empty((*pixels[parts[0]].shape[:3], len(weight)), pixels.dtype)
    for block in blocks(results.shape, len(parts) * pixels.shape[3]):
        patches = np.stack([pixels[block][part] for part in parts], axis=3)
        products = np.matmul(by_group(patches, groups), weights)
        results[block] = products.transpose(1, 0, 2).reshape(results[block].shape)
    if bias is not None:
        results += bias.numpy(force=True)
    formats = [suggest_memory_format(values) for values in (images, weight)]
    chosen = torch.channels_last if torch.channels_last in formats else torch.contiguous_format
    return torch.from_numpy(results).permute(0, 3, 1, 2).contiguous(memory_format=chosen)


@np.errstate(all="ignore")
def convolution_backward(  # noqa: PLR0913, PLR0917  as the operator
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    output_mask: list[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients by images, weight and bias, of those that `output_mask` asks for.

    The first two have the memory formats of images and weight, as optimizers expect.
    """
    by_images = by_weight = by_bias = None
    pixels = padded(images, padding)
    parts = windows(pixels, weight.shape[2:], stride, dilation)
    weights = weight_by_group(weight.numpy(force=True), groups)
    by_pixels, by_weights = np.zeros_like(pixels), np.zeros_like(weights)
    by_results = gradient.numpy(force=True).transpose(0, 2, 3, 1)
    for block in blocks(by_results.shape, len(parts) * pixels.shape[3]):
        by_products = by_group(by_results[block][:, :, :, None], groups)
        if output_mask[0]:
            by_patches = np.matmul(by_products, weights.transpose(0, 2, 1))
            by_patches = by_patches.reshape(groups, -1, len(parts), pixels.shape[3] // groups)
            for i, part in enumerate(parts):
                by_part = by_pixels[block][part]
                by_part += by_patches[:, :, i].transpose(1, 0, 2).reshape(by_part.shape)
        if output_mask[1]:
            patches = np.stack([pixels[block][part] for part in parts], axis=3)
            by_weights += np.matmul(by_group(patches, groups).transpose(0, 2, 1), by_products)
    if output_mask[0]:
        rows, columns = padding
        _, _, height, width = images.shape
        inner = by_pixels[:, rows : rows + height, columns : columns + width]
        by_images = torch.empty_like(images).copy_(torch.from_numpy(inner.transpose(0, 3, 1, 2)))
    if output_mask[1]:
        outputs, inputs = weight.shape[:2]
        values = by_weights.reshape(groups, len(parts), inputs, outputs // groups)
        values = values.transpose(0, 3, 2, 1).reshape(weight.shape)
        by_weight = torch.empty_like(weight).copy_(torch.from_numpy(values))
    if output_mask[2]:
        by_bias = gradient.sum(dim=(0, 2, 3))
    return by_images, by_weight, by_bias


KERNELS: dict[str, Callable] = {
    "_convolution": convolution,  # which `convolution` calls, and TorchScript records
    "convolution_backward": convolution_backward,
}
