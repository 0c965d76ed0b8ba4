"""The training loop: what every recipe means, on any device, in any number of threads and processes.

Each batch is cut into `recipe.shards` parts. One thread computes a part: its gradient, its statistics
for batch normalisation, its share of the loss. What the parts give is added in their order, and what is
random is drawn anew for each epoch, batch and part (`setup.draws`). So the result does not depend on
who computes which part, and on how many do (`parallel.py`).

`feed_forward` does the same faster, on a CPU, for networks of linear layers whose batches are not cut.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from tqdm import tqdm

from stages.common.errors import UserError
from stages.common.params import ConvolutionalRecipe, Recipe
from stages.common.splits import Split
from stages.network.networks import FiveLooks
from stages.network.pixels import to_input
from stages.training.distortion import distort, draw
from stages.training.parallel import Group
from stages.training.setup import draws

MOMENTUM = 0.1  # of the running statistics of batch normalisation: PyTorch's default


class Result(NamedTuple):
    """Of one epoch: means over the batches as they were trained on, with dropout or distortion."""

    loss: float  # nats
    accuracy: float


def gradient(learner: nn.Module, inputs: Tensor, labels: Tensor, size: int) -> Tensor:
    """Add the gradient of the mean loss of a batch of `size` images, of which n are given.

    `inputs` are float32 [n, 1, 28, 28], `labels` int64 [n]. Returns the sum of their losses, in nats,
    and how many of them are right: float32 [2].
    """
    logits = learner(inputs)
    loss = cross_entropy(logits, labels, reduction="sum")
    (loss / size).backward()
    right = (logits.argmax(dim=1) == labels).sum()
    return torch.stack([loss.detach(), right])


class Training:
    """Trains `network` in place, on the device where it is, one epoch after the other."""

    def __init__(
        self, network: nn.Module, split: Split, recipe: Recipe, seed: int, group: Group
    ) -> None:
        self._split, self._recipe, self._seed, self._group = split, recipe, seed, group
        self._convolutional = isinstance(recipe, ConvolutionalRecipe)
        self._batches = -(-len(split) // recipe.batch_size)
        if self._convolutional:  # batch normalisation wants enough images: no incomplete last batch
            self._batches = max(1, len(split) // recipe.batch_size)
            check_shards(recipe, len(split))
        learner = learner_of(network)
        self._parts = [Part(learner) for _ in range(recipe.shards)]
        self._layers = normalisations(learner)
        self._gradient = torch.zeros_like(self._parts[0].gradient)
        self._statistics = torch.zeros_like(self._parts[0].statistics)
        self._row = torch.cat(self._parts[0].values)
        place_gradients(learner, self._gradient)
        place_statistics(learner, self._statistics)
        # All parts of a batch move the running statistics about as far as a whole batch would.
        self._momentum = MOMENTUM / recipe.shards
        steps = recipe.epochs * self._batches
        self._optimizer, self._schedule = optimizer_of(learner, recipe, steps)

    def epoch(self, epoch: int) -> Result:
        """Train for one epoch; the first is 1."""
        size, seen = self._recipe.batch_size, 0
        order = torch.randperm(len(self._split), generator=draws(self._seed, epoch))
        total = torch.zeros(2, device=self._gradient.device)
        # disable=None: a bar on a terminal only
        bar = tqdm(desc=f"epoch {epoch}", total=self._batches, disable=self._group.quiet)
        for batch, indices in enumerate(order.split(size)[: self._batches], start=1):
            total += self._step(indices, epoch, batch)
            seen += len(indices)
            bar.update()
        bar.close()
        return Result(*(total / seen).tolist())

    def _step(self, indices: Tensor, epoch: int, batch: int) -> Tensor:
        """Take one step on the images at `indices`, int64 [n]; return what `gradient` does, of all."""
        images = indices.tensor_split(len(self._parts))

        def compute(number: int, row: Tensor) -> None:
            if not len(images[number]):  # the last batch may have fewer images than parts
                row.zero_()
                return
            random = draws(self._seed, epoch, batch, number)
            self._compute(self._parts[number], images[number], len(indices), random)
            torch.cat(self._parts[number].values, out=row)

        rows = self._group.gather(compute, len(self._parts), self._row)
        total = rows[0].clone()
        for row in rows[1:]:
            total += row
        parameters = len(self._gradient)
        self._gradient.copy_(total[:parameters])
        self._optimizer.step()
        self._schedule.step()
        for row in rows:
            self._statistics.mul_(1 - self._momentum)
            self._statistics.add_(row[parameters:-2], alpha=self._momentum)
        for layer in self._layers:
            layer.num_batches_tracked += 1
        return total[-2:]

    def _compute(self, part: "Part", indices: Tensor, size: int, random: torch.Generator) -> None:
        device = self._gradient.device
        images, labels = (some.to(device) for some in self._split.take(indices))
        inputs = to_input(images)
        if self._convolutional:
            inputs = distort(inputs, draw(len(labels), self._recipe, random).to(device))
        else:  # dropout is drawn from the global generator
            torch.manual_seed(random.initial_seed())
        part.gradient.zero_()
        part.sums = gradient(part.learner, inputs, labels, size)

    def state_dict(self) -> dict:
        """Return what is needed to go on, besides the network's own state."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


class Part:
    """A copy of the network for one part of a batch; its weights are the network's own.

    What the part gives: the `gradient` by the parameters, float32 [P], the `statistics`, means and
    variances, that batch normalisation found in it, [B], the `sums` that `gradient` returns, [2].
    """

    def __init__(self, learner: nn.Module) -> None:
        self.learner = copy.deepcopy(learner).train()
        for copied, weights in zip(self.learner.parameters(), learner.parameters(), strict=True):
            copied.data = weights.data
        layers = normalisations(self.learner)
        some = next(learner.parameters())
        self.gradient = some.new_zeros(sum(weights.numel() for weights in learner.parameters()))
        self.statistics = some.new_zeros(sum(2 * layer.num_features for layer in layers))
        self.sums = some.new_zeros(2)
        place_gradients(self.learner, self.gradient)
        place_statistics(self.learner, self.statistics)
        for layer in layers:
            layer.momentum = 1.0  # so its running statistics are those of this part alone

    @property
    def values(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.gradient, self.statistics, self.sums


def normalisations(learner: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in learner.modules() if isinstance(layer, nn.BatchNorm2d)]


def place_gradients(learner: nn.Module, vector: Tensor) -> None:
    """Make all gradients parts of `vector`, float32 [P].

    Each has the memory format of its parameter: the fused optimizer reads both in the order of memory.
    """
    parameters = list(learner.parameters())
    for weights, gradient in zip(parameters, views(vector, parameters), strict=True):
        weights.grad = gradient


def place_statistics(learner: nn.Module, vector: Tensor) -> None:
    """Move the running statistics of batch normalisation into `vector`, float32 [B]."""
    for layer, part in zip(
        layers := normalisations(learner),
        vector.split([2 * layer.num_features for layer in layers]) if layers else [],
        strict=True,
    ):
        means, variances = part.split(layer.num_features)
        layer.running_mean, layer.running_var = (
            means.copy_(layer.running_mean),
            variances.copy_(layer.running_var),
        )


def views(vector: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Return the parts of `vector` [P] in the shapes and memory formats of `tensors`."""
    parts = vector.split([tensor.numel() for tensor in tensors])
    return [
        part.as_strided(tensor.shape, tensor.stride())
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def check_shards(recipe: ConvolutionalRecipe, images: int) -> None:
    """Refuse parts of fewer than two images, of which batch normalisation can say nothing.

    Raises:
        UserError: a batch has too few.
    """
    smallest = min(images, recipe.batch_size)
    if smallest < 2 * recipe.shards:
        raise UserError(
            f"params.yaml: shards: {recipe.shards} is too many for batches of {smallest} images: "
            f"batch normalisation wants two in each part; use at most {smallest // 2}"
        )


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
