"""Blocks of convolutions, each of which halves the image, and a mean over what is left of it."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from stages.runtime.config import PositiveInt, Section


class Blocks(Section):
    """The configuration of a network of blocks, and its builder."""

    kind: Literal["blocks"]
    stem: PositiveInt  # channels of the first convolution
    channels: Annotated[list[PositiveInt], Field(min_length=1)]  # of each block
    mirrored_view: (
        bool  # average predictions over the image and its mirror image, except in training
    )

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the network of images of `shape` (channels, height, width), with random weights.

        Raises:
            ValueError: there are more blocks than the image can be halved.
        """
        inputs, *size = shape
        if min(size) < 2 ** len(self.channels):
            raise ValueError(
                f"channels: {len(self.channels)} blocks leave nothing of images of {size[0]} x "
                f"{size[1]} pixels, since each halves them: use fewer"
            )
        layers = convolution(inputs, self.stem)
        inputs = self.stem
        for outputs in self.channels:
            layers += convolution(inputs, outputs, nn.MaxPool2d(2)) + convolution(outputs, outputs)
            inputs = outputs
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
        network = nn.Sequential(*layers)
        return MirroredViews(network) if self.mirrored_view else network


def convolution(inputs: int, outputs: int, *pool: nn.Module) -> list[nn.Module]:
    """Return the layers of a 3 x 3 convolution that keeps the size, or pools what it returns.

    It has no bias, since batch normalisation would subtract it again.
    """
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [layer, *pool, nn.BatchNorm2d(outputs), nn.ReLU()]


class MirroredViews(nn.Module):
    """Averages logits over the image and its mirror image, except in training."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.network(images)
        # One batch of both views: an exported file then holds the network once.
        views = self.network(torch.cat([images, images.flip(-1)]))
        return views.view(2, -1, views.shape[1]).mean(dim=0)
