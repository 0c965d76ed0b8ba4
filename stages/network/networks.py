"""The networks."""

import torch
from torch import nn
from torch.nn.functional import log_softmax, pad

import stages.network.kernels  # noqa: F401  from here on, torch computes as it says
from stages.common.params import SIDE

ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU, "gelu": nn.GELU}


def build(architecture: dict, classes: int) -> nn.Module:
    """Build the network of a recipe's `architecture` (see `common.params`), with random weights.

    The weights are drawn from torch's global generator. The network maps float32 [N, 1, 28, 28] (see
    `pixels.to_input`) to logits float32 [N, classes]: the last layer has no softmax, since
    cross-entropy takes logits, and `export` appends it. The layers are torch's own, so that TorchScript
    needs no class of ours.
    """
    architecture = dict(architecture)
    match architecture.pop("network"):
        case "feed_forward":
            return feed_forward(classes, **architecture)
        case "convolutional":
            return FiveLooks(convolutional(classes, **architecture))
        case other:
            raise ValueError(f"no network {other!r}")


def feed_forward(
    classes: int, hidden_sizes: list[int], activations: list[str], dropout: float
) -> nn.Sequential:
    """Build linear layers, each but the last followed by an activation and dropout."""
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = SIDE * SIDE
    for size, activation in zip(hidden_sizes, activations, strict=True):
        layers += [nn.Linear(inputs, size), ACTIVATIONS[activation](), nn.Dropout(dropout)]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def convolutional(
    classes: int, channels: list[int], kernel_sizes: list[int], pool_sizes: list[int]
) -> nn.Sequential:
    """Build convolutions without padding, each followed by max pooling, batch normalisation and ReLU.

    They have no bias, since batch normalisation would take it away again. A linear layer follows.
    """
    layers: list[nn.Module] = []
    inputs, side = 1, SIDE
    for outputs, kernel_size, pool_size in zip(channels, kernel_sizes, pool_sizes, strict=True):
        layers.append(nn.Conv2d(inputs, outputs, kernel_size, bias=False))
        if pool_size > 1:
            layers.append(nn.MaxPool2d(pool_size))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs, side = outputs, (side - kernel_size + 1) // pool_size
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * side * side, classes))


class FiveLooks(nn.Module):
    """A network that looks at each image in five places; what it says is averaged.

    The places are where the image is, and one pixel up, down, left and right of it. The average is
    that of the log-probabilities, which are logits too. Only `network` itself is trained.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        padded = pad(images, (1, 1, 1, 1))
        places = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
        # One batch of all looks: an exported file then holds the network once, not five times.
        looks = torch.cat([padded[..., y : y + SIDE, x : x + SIDE] for y, x in places])
        answers = log_softmax(self.network(looks), dim=1)
        return answers.view(len(places), -1, answers.shape[1]).mean(dim=0)
