"""How a trained network is applied to many images, and its logits are scored."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.networks.pixels import to_input
from stages.runtime.errors import UserError


@torch.inference_mode()
def predict_batches(
    network: nn.Module, images: Tensor, batch_size: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the network's logits, float32 [N, classes] on the CPU, for images uint8 [N, C, H, W].

    The network is used in eval mode, on `device`; one batch at a time becomes float and goes there.

    Raises:
        UserError: the network draws random numbers in eval mode, too.
    """
    before = torch.get_rng_state()
    network.eval()
    logits = None
    for first, batch in zip(
        range(0, len(images) or 1, batch_size), images.split(batch_size), strict=True
    ):
        outputs = network(to_input(batch.to(device)))
        if logits is None:
            # Allocated once: small results kept between large ones would leave holes in the heap.
            logits = torch.empty(len(images), outputs.shape[1])
        logits[first : first + batch_size] = outputs
    if not torch.equal(torch.get_rng_state(), before):
        raise UserError(
            "the network draws random numbers in eval mode, so its results would differ between runs; "
            "draw only if `self.training` (dropout takes `training=self.training`)"
        )
    assert logits is not None  # a split of no images is one batch of none
    return logits


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the maximum of each row of `logits` [N, classes] is at its label, bool [N]."""
    return logits.argmax(dim=1) == labels


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of correct rows of `logits` [N, classes] for labels, any int [N]."""
    return correct(logits, labels).double().mean().item()


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy in nats of logits [N, classes] and labels, any int [N].

    It is averaged in float64, in which 10,000 float32 values lose nothing.
    """
    return cross_entropy(logits, labels.long(), reduction="none").double().mean().item()
