"""The training loop: what every recipe means, on any device.

On a CPU, `feed_forward` and `parallel` do the same faster. Each says how much faster, and tests hold
it to this loop.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from tqdm import tqdm

from stages.common.params import ConvolutionalRecipe, Recipe
from stages.common.splits import Split
from stages.network.networks import FiveLooks
from stages.network.pixels import to_input
from stages.training.distortion import Distortion, distort, draw


class Batch(NamedTuple):
    """What one step learns from, n images."""

    images: Tensor  # uint8 [n, 28, 28]
    labels: Tensor  # int64 [n]
    distortion: Distortion | None


class Result(NamedTuple):
    """Of one epoch: means over the batches as they were trained on, with dropout or distortion."""

    loss: float  # nats
    accuracy: float


def gradient(learner: nn.Module, batch: Batch, size: int) -> Tensor:
    """Set the gradient of the mean loss of a batch of `size` images, of which `batch` is all or a part.

    Returns the part's share of the loss, in nats, and of the accuracy: float32 [2].
    """
    inputs = to_input(batch.images)
    if batch.distortion:
        inputs = distort(inputs, batch.distortion)
    learner.zero_grad()
    logits = learner(inputs)
    loss = cross_entropy(logits, batch.labels, reduction="sum") / size
    loss.backward()
    right = (logits.argmax(dim=1) == batch.labels).sum() / size
    return torch.stack([loss.detach(), right])


def train(
    network: nn.Module,
    split: Split,
    recipe: Recipe,
    seed: int,
    gradient: Callable[[nn.Module, Batch, int], Tensor] = gradient,
) -> Iterator[Result]:
    """Train `network` in place, on the device where it is; yield the result of each epoch."""
    device = next(network.parameters()).device
    learner = learner_of(network)
    convolutional = isinstance(recipe, ConvolutionalRecipe)
    batches = -(-len(split) // recipe.batch_size)
    if convolutional:  # batch normalisation wants enough images: no incomplete last batch
        batches = max(1, len(split) // recipe.batch_size)
    optimizer, schedule = optimizer_of(learner, recipe, recipe.epochs * batches)
    shuffle = torch.Generator().manual_seed(seed)
    noise = torch.Generator(device).manual_seed(seed)
    for epoch in range(1, recipe.epochs + 1):
        learner.train()
        order = torch.randperm(len(split), generator=shuffle)
        total, seen = torch.zeros(2, device=device), 0
        # disable=None: a bar on a terminal only
        for indices in tqdm(
            order.split(recipe.batch_size)[:batches], f"epoch {epoch}", disable=None
        ):
            images, labels = (part.to(device) for part in split.take(indices))
            distortion = draw(len(labels), recipe, noise) if convolutional else None
            total += gradient(learner, Batch(images, labels, distortion), len(labels)) * len(labels)
            optimizer.step()
            schedule.step()
            seen += len(labels)
        yield Result(*(total / seen).tolist())


def learner_of(network: nn.Module) -> nn.Module:
    """Return the part of a network that is trained: one look at each image, not five."""
    if isinstance(network, FiveLooks):
        return network.network.to(memory_format=torch.channels_last)
    return network


def optimizer_of(
    learner: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Return a recipe's optimizer, and the schedule of its learning rate over so many steps.

    For a feed-forward network that is Adam, as in the tutorial. For a convolutional one it is AdamW,
    with weight decay for matrices and kernels only; its learning rate rises linearly from 0 over the
    share `recipe.warmup` of the steps, and falls linearly to 0 over the others.
    """
    if not isinstance(recipe, ConvolutionalRecipe):
        optimizer = torch.optim.Adam(learner.parameters(), lr=recipe.learning_rate)
        return optimizer, LambdaLR(optimizer, lambda step: 1.0)
    matrices = [weights for weights in learner.parameters() if weights.ndim > 1]
    others = [weights for weights in learner.parameters() if weights.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    rise = recipe.warmup * steps
    fall = steps - rise
    return optimizer, LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / max(rise, 1), (steps - step) / fall)
    )
