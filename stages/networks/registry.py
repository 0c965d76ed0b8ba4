"""The networks that a recipe can choose. To add one: a module beside these, and a name in `Network`."""

from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from torch import nn

import stages.networks.kernels  # noqa: F401  from here on, torch computes as it says
from stages.networks.blocks import Blocks
from stages.networks.convolutional import Convolutional
from stages.networks.feed_forward import FeedForward
from stages.networks.torchvision_models import Torchvision

Network = Annotated[FeedForward | Convolutional | Blocks | Torchvision, Field(discriminator="kind")]

MAX_WEIGHTS = 2**28  # of a network; with gradients and Adam's moments, 4 GB


def build(config: Network, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network with random weights, drawn from torch's default generator.

    It maps images float32 [N, *shape] in [0, 1] (`pixels.to_input`) to logits float32 [N, classes]: the
    last layer has no softmax, since cross-entropy takes logits, and `export` appends it.

    Raises:
        ValueError: the network does not fit the images, or has no weights or more than `MAX_WEIGHTS`.
    """
    try:
        with torch.device("meta"):  # takes no memory
            size = sum(weights.numel() for weights in config.build(shape, classes).parameters())
    except RuntimeError as error:  # too large to count, or a value is needed, which takes memory
        raise ValueError(str(error).splitlines()[0]) from None
    if not 0 < size <= MAX_WEIGHTS:
        raise ValueError(f"{size:,} weights are not allowed: use 1 to {MAX_WEIGHTS:,}")
    return config.build(shape, classes)


def parse(config: object) -> Network:
    """Return a network's configuration from its JSON; raises pydantic's ValidationError."""
    return TypeAdapter(Network).validate_python(config)
