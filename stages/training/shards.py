"""What the training loop computes of a batch at a time: a shard, on a replica of the network."""

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Replica:
    """A copy of a network for one shard: its weights are the network's own, its buffers are not."""

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).train()
        for module in self.network.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(weights.requires_grad for weights in own):
                module.eval()  # a frozen layer keeps its statistics, too
        for copied, weights in zip(self.network.parameters(), network.parameters(), strict=True):
            copied.data = weights.data
        self.parameters = [copied for copied in self.network.parameters() if copied.requires_grad]
        self._originals = dict(network.named_buffers())
        names = [name.rpartition(".") for name in self._originals]
        self._owners = [(self.network.get_submodule(owner), name) for owner, _, name in names]

    def _buffers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each buffer as it is now, since a layer may assign a new tensor, and its original."""
        copies = (getattr(owner, name) for owner, name in self._owners)
        return zip(copies, self._originals.values(), strict=True)

    def copy_buffers(self) -> None:
        """Give the buffers the values of the network's."""
        for copied, original in self._buffers():
            copied.copy_(original)

    def changes(self) -> list[Tensor]:
        """Return how much the buffers differ from the network's."""
        return [as_number(copied) - as_number(original) for copied, original in self._buffers()]

    def change_originals(self, summed: Sequence[Tensor], shards: int) -> None:
        """Change the network's buffers by the mean of `changes`, given their sums over the shards."""
        for original, change in zip(self._originals.values(), summed, strict=True):
            number = as_number(original)
            original.copy_(number + (change / shards).to(number.dtype))


def as_number(tensor: Tensor) -> Tensor:
    """Return a tensor, or 0 and 1 for a bool tensor, which torch does not subtract."""
    return tensor.float() if tensor.dtype == torch.bool else tensor


class ShardResult(NamedTuple):
    """A shard's results, or their sums over shards; packed, they are one vector that can be sent."""

    gradients: Sequence[Tensor]  # of each parameter
    changes: Sequence[Tensor]  # of each buffer
    totals: Tensor  # float32 [metrics], sums over the images

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.gradients, *self.changes, self.totals)

    def pack(self, out: Tensor | None = None) -> Tensor:
        """Return all values as one vector, float32 [values]."""
        return torch.cat([tensor.flatten() for tensor in self.tensors], out=out)

    def views(self, vector: Tensor) -> "ShardResult":
        """Return a packed vector's values, in the shapes of these tensors, as views of it."""
        pieces = vector.split([tensor.numel() for tensor in self.tensors])
        views = [piece.view_as(like) for piece, like in zip(pieces, self.tensors, strict=True)]
        first = len(self.gradients)
        return ShardResult(views[:first], views[first:-1], views[-1])
