"""The training loop with each batch divided among threads, for convolutional networks on a CPU.

PyTorch's own threads wait for one another in each of hundreds of small operations of a step: with
another process on one of two cores, a training took ten times as long. These wait once a step. On two
cores an epoch takes 0.6 of the time of the plain loop (benchmarks/results.md). Batch normalisation
takes its statistics from a part of the batch, so the number of threads is part of the recipe; apart
from that, tests/training/test_parallel.py holds the gradients to those of the plain loop.
"""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor, nn

from stages.common.errors import UserError
from stages.common.params import ConvolutionalRecipe
from stages.common.splits import Split
from stages.training import loop
from stages.training.distortion import Distortion
from stages.training.loop import Batch, Result


def train(
    network: nn.Module, split: Split, recipe: ConvolutionalRecipe, seed: int
) -> Iterator[Result]:
    """Train `network` in place, as `loop.train` does, each batch by `recipe.threads` threads."""
    smallest = min(len(split), recipe.batch_size)
    if smallest < 2 * recipe.threads:
        raise UserError(
            f"params.yaml: threads: {recipe.threads} is too many for batches of {smallest} images: "
            f"batch normalisation wants two in each part; use at most {smallest // 2}"
        )
    learner = loop.learner_of(network)
    replicas = [learner, *(replica_of(learner) for _ in range(1, recipe.threads))]
    flush = partial(torch.set_flush_denormal, True)  # is set for each thread
    with ThreadPoolExecutor(recipe.threads, initializer=flush) as pool:

        def gradient(_: nn.Module, batch: Batch, size: int) -> Tensor:
            work = partial(loop.gradient, size=size)
            shares = sum(pool.map(work, replicas, divide(batch, len(replicas))))
            merge_gradients(replicas)
            return shares

        yield from loop.train(network, split, recipe, seed, gradient)


def divide(batch: Batch, parts: int) -> list[Batch]:
    """Divide a batch into so many, whose sizes differ by one at most."""
    images, labels, *distortion = (
        part.tensor_split(parts) for part in (batch.images, batch.labels, *batch.distortion)
    )
    distortions = map(Distortion, *distortion)
    return [Batch(*part) for part in zip(images, labels, distortions, strict=True)]


def replica_of(learner: nn.Module) -> nn.Module:
    """Return a copy with the same weights in the same memory, and gradients of its own.

    The running statistics of its batch normalisation are its own too, and are not used.
    """
    replica = copy.deepcopy(learner).train()
    for copied, weights in zip(replica.parameters(), learner.parameters(), strict=True):
        copied.data = weights.data
    return replica


def merge_gradients(replicas: list[nn.Module]) -> None:
    """Add the gradients of a network's replicas to those of the first, which is the network."""
    for parameter, *others in zip(*(one.parameters() for one in replicas), strict=True):
        for other in others:
            parameter.grad += other.grad
