"""The training loop: what every recipe means, on any device, in any number of threads and processes.

Each batch is cut into `recipe.shards` shards. One thread computes a shard: its gradients, its buffers,
its share of the loss. The results are summed in the order of the shards, and each draws from its own
generator, so the number of workers never changes them. `fast_mlp.py` is faster for one kind of network.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from stages.networks.pixels import to_input
from stages.runtime.splits import Split
from stages.training.metrics import METRICS, means, totals
from stages.training.optimizers import make_schedule
from stages.training.parallel import Group
from stages.training.randomness import DrawFrom, UnseededError, choose_draw_from, make_generator
from stages.training.recipe import Recipe
from stages.training.shards import Replica, ShardResult


def before_step(parameters: list[nn.Parameter]) -> None:
    """Change a batch's gradients, such as by nn.utils.clip_grad_norm_(parameters, 1.0)."""


def keep_on(device: torch.device, split: Split) -> Split:
    """Return the split with its images on a GPU, if they take at most half of the GPU's free memory."""
    if device.type != "cuda" or split.images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return split
    return replace(split, images=split.images.to(device), labels=split.labels.to(device))


class Loop:
    """Trains `network` in place, on the device where it is, one epoch after the other."""

    def __init__(
        self, network: nn.Module, split: Split, recipe: Recipe, seed: int, group: Group
    ) -> None:
        """Raises ValueError: the network cannot be trained on a shard of this recipe."""
        self.recipe, self.seed, self.group = recipe, seed, group
        self.parameters = [weights for weights in network.parameters() if weights.requires_grad]
        self.device = self.parameters[0].device
        self.split = keep_on(self.device, split)
        self.replicas = [Replica(network) for _ in range(recipe.shards)]
        self.batches = recipe.batches(len(split))
        self.loss = recipe.loss.build(self.split.labels.to(self.device), len(split.classes))
        self.draw_from: DrawFrom = nullcontext
        self.autocast: Callable[[], AbstractContextManager] = nullcontext
        if recipe.precision != "float32":
            dtype = getattr(torch, recipe.precision)
            self.autocast = partial(torch.autocast, self.device.type, dtype)
        self.like = self.rehearse()  # what is gathered of a shard
        self.row = self.like.pack()
        for weights in self.parameters:
            weights.grad = torch.zeros_like(weights)
        self.optimizer = recipe.optimizer.build(network)
        steps = recipe.epochs * self.batches
        self.schedule = make_schedule(self.optimizer, recipe.optimizer.schedule, steps)

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, from 1; return means over its batches as they were trained on."""
        order = torch.randperm(len(self.split), generator=make_generator(self.seed, epoch))
        batches = order.to(self.split.labels.device).split(self.recipe.batch_size)[: self.batches]
        total = torch.zeros(1 + len(METRICS), device=self.device)
        bar = tqdm(batches, f"epoch {epoch}", disable=self.group.quiet)
        for batch, indices in enumerate(bar, start=1):
            total += self.step(indices, epoch, batch)
        return means(total, sum(map(len, batches)))

    def step(self, indices: Tensor, epoch: int, batch: int) -> Tensor:
        """Take one step on the images at `indices`, int64 [n]; return their `totals`."""
        # The last batch may have fewer images than shards.
        shards = [shard for shard in indices.tensor_split(self.recipe.shards) if len(shard)]

        def compute(number: int, row: Tensor) -> None:
            rng = make_generator(self.seed, epoch, batch, number, self.device)
            self.compute_shard(number, shards[number], len(indices), rng).pack(row)

        rows = self.group.gather(compute, len(shards), self.row)
        total = rows[0].clone()
        for row in rows[1:]:  # in this order, whichever worker computed which
            total += row
        summed = self.like.views(total)
        for weights, gradient in zip(self.parameters, summed.gradients, strict=True):
            weights.grad.copy_(gradient)  # type: ignore[union-attr]
        before_step(self.parameters)
        self.optimizer.step()
        self.schedule.step()
        self.replicas[0].change_originals(summed.changes, len(shards))
        return summed.totals

    def compute_shard(self, shard: int, indices: Tensor, size: int, rng: Generator) -> ShardResult:
        """Return what the images at `indices` contribute to a batch of `size` images."""
        images, labels = (tensor.to(self.device) for tensor in self.split.take(indices))
        replica = self.replicas[shard]
        replica.copy_buffers()
        with self.draw_from(rng):
            inputs = to_input(images)
            for augment in self.recipe.augmentation:
                inputs = augment(inputs, rng)
            with self.autocast():
                logits = replica.network(inputs)
            logits = logits.float()
            if logits.shape != (expected := (len(labels), len(self.split.classes))):
                raise ValueError(f"the network returns {list(logits.shape)}, not {list(expected)}")
            loss = self.loss(logits, labels)
        with self.draw_from(None):
            gradients = torch.autograd.grad(loss / size, replica.parameters, materialize_grads=True)
        return ShardResult(gradients, replica.changes(), totals(loss, logits, labels))

    def rehearse(self) -> ShardResult:
        """Compute the smallest shard; raises ValueError: the network cannot be trained on it."""
        last = torch.arange(len(self.split)).split(self.recipe.batch_size)[self.batches - 1]
        indices = last[: max(1, len(last) // self.recipe.shards)]
        rng = make_generator(self.seed, 0, device=self.device)
        compute = partial(self.compute_shard, 0, indices, len(last), rng)
        try:
            self.draw_from = choose_draw_from(compute, self.device)
            return compute()
        except (UnseededError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"a shard of {len(indices)} images cannot be trained on: {str(error).splitlines()[0]}; "
                "change the network, or use larger batches, fewer shards or drop_last: true"
            ) from error

    def state_dict(self) -> dict:
        """Return what is needed to resume, besides the network's own state."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
