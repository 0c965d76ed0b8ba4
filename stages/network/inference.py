"""How a trained network is applied to many images, and how its answers are scored."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from stages.network.networks import CLASSES
from stages.network.pixels import to_input


@torch.inference_mode()
def predict_batches(
    network: nn.Module, images: torch.Tensor, batch_size: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Return the network's outputs, float32 [N, 10] on the CPU, for images uint8 [N, 28, 28].

    Dropout is off. One batch at a time becomes float and goes to `device`, where the network is.
    """
    network.eval()
    # Set aside once: small results kept between large ones that go would leave holes in the heap.
    outputs = torch.empty(len(images), CLASSES)
    for batch, into in zip(images.split(batch_size), outputs.split(batch_size), strict=True):
        into.copy_(network(to_input(batch.to(device))))
    return outputs


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of rows of `outputs` [N, 10] whose maximum is at the label, any int [N]."""
    return (outputs.argmax(dim=1) == labels).double().mean().item()


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean cross-entropy in nats of logits [N, 10] and labels, any int [N].

    It is averaged in float64, in which 10,000 float32 values lose nothing.
    """
    return cross_entropy(logits, labels.long(), reduction="none").double().mean().item()
