"""The network, and what it takes in."""

import torch
from torch import nn

CLASSES = 10
ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU, "gelu": nn.GELU}


def build(hidden_sizes: list[int], activations: list[str], dropout: float) -> nn.Sequential:
    """Build the feed-forward network with random weights from torch's global generator.

    It maps float32 [N, 1, 28, 28] (see `to_input`) to logits float32 [N, 10]. The last layer has no
    softmax: cross-entropy takes logits, and `export` appends it. The layers are torch's own, so
    that TorchScript needs no class of ours.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = 28 * 28
    for size, activation in zip(hidden_sizes, activations, strict=True):
        layers += [nn.Linear(inputs, size), ACTIVATIONS[activation](), nn.Dropout(dropout)]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, CLASSES))


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Turn images uint8 [N, 28, 28] into float32 [N, 1, 28, 28] in [0, 1], as `ToTensor` does."""
    return images.unsqueeze(1).float() / 255
