"""torchvision's networks for classification, for images of any size in [0, 1]."""

from typing import Literal

import torch
from torch import nn

from stages.networks.torchvision_import import import_torchvision
from stages.runtime.config import Section

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: torchvision's own


class Torchvision(Section):
    """The name of one of torchvision's networks, and its builder.

    Those that it offers compute the same bytes on every processor (tests/pipeline/digests.py).
    """

    kind: Literal["torchvision"]
    name: Literal[
        "resnet18",
        "resnet50",
        "mobilenet_v3_small",
        "efficientnet_b0",
    ]
    small_input: bool = False  # for images of some 32 pixels: halve them twice less at the start

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the network of images of `shape` (channels, height, width), with random weights.

        Its first convolution takes as many channels as there are.
        """
        network = getattr(import_torchvision().models, self.name)(num_classes=classes)
        name, first = next(
            (name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)
        )
        size, stride = first.kernel_size[0], first.stride[0]
        if self.small_input:
            size, stride = 3, 1
            if hasattr(network, "maxpool"):
                network.maxpool = nn.Identity()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.1  # MobileNet's 0.01 is for ImageNet's many steps
        # It has no bias, since batch normalisation follows.
        stem = nn.Conv2d(shape[0], first.out_channels, size, stride, padding=size // 2, bias=False)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, stem)
        return nn.Sequential(Normalisation(shape[0]), network)


class Normalisation(nn.Module):
    """Subtracts ImageNet's mean colour and divides by its deviation; for grey images, their means."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, channels: int):
        super().__init__()
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            each = torch.tensor(values if channels == len(values) else sum(values) / len(values))
            self.register_buffer(name, each.view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.deviation
