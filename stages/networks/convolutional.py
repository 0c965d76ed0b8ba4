"""Convolutions without padding, and test-time augmentation."""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import log_softmax, pad

from stages.runtime.config import PositiveInt, Section


class Convolutional(Section):
    """The configuration of a convolutional network, and its builder."""

    kind: Literal["convolutional"]
    channels: Annotated[list[PositiveInt], Field(min_length=1)]
    kernel_sizes: list[PositiveInt]
    pool_sizes: list[PositiveInt]

    @model_validator(mode="after")
    def _one_entry_for_each_layer(self) -> "Convolutional":
        if not len(self.channels) == len(self.kernel_sizes) == len(self.pool_sizes):
            raise ValueError(
                f"channels: {len(self.channels)} layers, but kernel_sizes has "
                f"{len(self.kernel_sizes)} and pool_sizes {len(self.pool_sizes)}: give each layer one"
            )
        return self

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the network of images of `shape` (channels, height, width), with random weights.

        Each convolution is followed by max pooling, batch normalisation and ReLU. It has no bias, since
        batch normalisation would subtract it again.

        Raises:
            ValueError: the layers are too large for the images.
        """
        inputs, height, width = shape
        layers: list[nn.Module] = []
        for outputs, kernel_size, pool_size in zip(
            self.channels, self.kernel_sizes, self.pool_sizes, strict=True
        ):
            layers.append(nn.Conv2d(inputs, outputs, kernel_size, bias=False))
            if pool_size > 1:
                layers.append(nn.MaxPool2d(pool_size))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
            height, width = ((side - kernel_size + 1) // pool_size for side in (height, width))
            if min(height, width) < 1:
                raise ValueError(
                    f"kernel_sizes: {self.kernel_sizes} with pool_sizes {self.pool_sizes} leave "
                    f"nothing of images of {shape[1]} x {shape[2]} pixels: use smaller ones"
                )
        layers += [nn.Flatten(), nn.Linear(inputs * height * width, classes)]
        return ShiftedViews(nn.Sequential(*layers), shape[1:])


class ShiftedViews(nn.Module):
    """Averages predictions over five one-pixel shifts, except in training.

    The views are the image itself, and the image shifted by one pixel up, down, left and right. The
    result is the mean of their log-probabilities, which are logits, too.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.network(images)
        height, width = self.size
        padded = pad(images, (1, 1, 1, 1))
        corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
        # One batch of all views: an exported file then holds the network once, not five times.
        views = torch.cat([padded[..., y : y + height, x : x + width] for y, x in corners])
        log_probabilities = log_softmax(self.network(views), dim=1)
        return log_probabilities.view(len(corners), -1, log_probabilities.shape[1]).mean(dim=0)
