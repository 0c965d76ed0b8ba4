"""How a trained network is applied to many images, and how its answers are scored."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from stages.network.pixels import to_input


@torch.inference_mode()
def predict_batches(
    network: nn.Module, images: torch.Tensor, batch_size: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Return the network's outputs, float32 [N, classes] on the CPU, for images uint8 [N, 28, 28].

    Dropout is off. One batch at a time becomes float and goes to `device`, where the network is.
    """
    network.eval()
    outputs = None
    for first, batch in zip(
        range(0, len(images) or 1, batch_size), images.split(batch_size), strict=True
    ):
        found = network(to_input(batch.to(device)))
        if outputs is None:
            # Set aside once: small results kept between large ones would leave holes in the heap.
            outputs = torch.empty(len(images), found.shape[1])
        outputs[first : first + batch_size] = found
    return outputs


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of rows of `outputs` [N, classes] whose maximum is at the label, any int [N]."""
    return (outputs.argmax(dim=1) == labels).double().mean().item()


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean cross-entropy in nats of logits [N, classes] and labels, any int [N].

    It is averaged in float64, in which 10,000 float32 values lose nothing.
    """
    return cross_entropy(logits, labels.long(), reduction="none").double().mean().item()
