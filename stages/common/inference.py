"""How a trained network is applied to many images, and how its answers are scored."""

from common.networks import to_input

import torch
from torch import nn
from torch.nn.functional import cross_entropy


@torch.inference_mode()
def predict_batches(network: nn.Module, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return the network's outputs, float32 [N, 10] on the CPU, for images uint8 [N, 28, 28].

    Dropout is off. `images` lie on the network's device; one batch at a time becomes float.
    """
    network.eval()
    if len(images) == 0:
        return torch.empty(0, 10)
    return torch.cat([network(to_input(batch)).cpu() for batch in images.split(batch_size)])


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of rows of `outputs` [N, 10] whose maximum is at the label, int64 [N]."""
    return (outputs.argmax(dim=1) == labels).double().mean().item()


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean cross-entropy in nats of logits [N, 10] and labels int64 [N].

    It is averaged in float64, in which 10,000 float32 values lose nothing.
    """
    return cross_entropy(logits.double(), labels).item()
