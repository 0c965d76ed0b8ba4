"""What the training loop computes of a batch at a time: a shard, on a replica of the network."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Replica:
    """A copy of a network for one shard: its weights are the network's own, its buffers are not."""

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).train()
        for copied, weights in zip(self.network.parameters(), network.parameters(), strict=True):
            copied.data = weights.data
        self.parameters = [copied for copied in self.network.parameters() if copied.requires_grad]

    @property
    def buffers(self) -> list[Tensor]:
        """The buffers as they are now: a layer may assign a new tensor."""
        return list(self.network.buffers())


class ShardResult(NamedTuple):
    """A shard's results, or their sums over shards; packed, they are one vector that can be sent."""

    gradients: Sequence[Tensor]  # of each parameter
    buffers: Sequence[Tensor]
    totals: Tensor  # float32 [metrics], sums over the images

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.gradients, *self.buffers, self.totals)

    def pack(self, out: Tensor | None = None) -> Tensor:
        """Return all values as one vector, float32 [values]."""
        return torch.cat([tensor.flatten().to(self.totals) for tensor in self.tensors], out=out)

    def views(self, vector: Tensor) -> "ShardResult":
        """Return a packed vector's values, in the shapes of these tensors, as views of it."""
        pieces = vector.split([tensor.numel() for tensor in self.tensors])
        views = [piece.view_as(like) for piece, like in zip(pieces, self.tensors, strict=True)]
        first = len(self.gradients)
        return ShardResult(views[:first], views[first:-1], views[-1])


def average_buffers(
    buffers: Sequence[Tensor], total: ShardResult, shards: list[ShardResult]
) -> None:
    """Set each of the network's buffers to its mean over the shards, if one of them changed it.

    Adding and dividing could change the last digit of one that all have left alone.
    """
    copies = zip(*(shard.buffers for shard in shards), strict=True)
    for buffer, summed, of_shards in zip(buffers, total.buffers, copies, strict=True):
        if any(not torch.equal(copy, buffer.to(copy)) for copy in of_shards):
            buffer.copy_(summed / len(shards))
