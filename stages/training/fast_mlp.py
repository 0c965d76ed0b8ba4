"""The training loop with gradients written out, for feed-forward networks on a CPU.

A batch of 32 is so little arithmetic that autograd, the optimizer's bookkeeping and fresh memory for
each result take longer than the matrix products. So here each step writes into memory that is allocated
once, all parameters are one vector to Adam, and the next batches are prepared on another core: an epoch
of the tutorial's recipe takes about a third of the time of the plain loop (benchmarks/results.md).
tests/training/test_fast_mlp.py holds the result to that of `loop.Loop`, up to rounding and to the
numbers that dropout draws. NumPy computes products and tanh, as in `networks/kernels.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from stages.networks.pixels import to_input
from stages.runtime.splits import Split
from stages.training.loop import before_step
from stages.training.losses import CrossEntropy
from stages.training.metrics import METRICS, means, totals
from stages.training.optimizers import Adam
from stages.training.parallel import Group
from stages.training.randomness import make_generator
from stages.training.recipe import Recipe

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")

IMAGES_AHEAD = 1024  # prepared at once: enough that handing them over costs little


class Shared(NamedTuple):
    """Memory of float32 values that torch and NumPy share."""

    tensor: Tensor
    array: np.ndarray

    @classmethod
    def of(cls, tensor: Tensor) -> "Shared":
        return cls(tensor, tensor.numpy())


class Activation(NamedTuple):
    """An activation and its derivative, each into `out`; all values are float32 [n, units].

    `slope(mask, z, a, h, out)` is mask · f'(z), where a = f(z) and h = mask · a.
    """

    apply: Callable[[Shared, Shared], object]  # (z, out)
    slope: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


ACTIVATIONS = {
    repr(nn.Tanh()): Activation(  # tanh' = 1 - tanh²
        lambda z, out: np.tanh(z.array, out=out.array),
        lambda mask, z, a, h, out: torch.addcmul(mask, h, a, value=-1, out=out),
    ),
    repr(nn.Sigmoid()): Activation(  # sigmoid' = sigmoid · (1 - sigmoid)
        lambda z, out: torch.sigmoid(z.tensor, out=out.tensor),
        lambda mask, z, a, h, out: torch.addcmul(h, h, a, value=-1, out=out),
    ),
    repr(nn.ReLU()): Activation(
        lambda z, out: torch.clamp_min(z.tensor, 0, out=out.tensor),
        lambda mask, z, a, h, out: torch.ops.aten.threshold_backward.grad_input(
            mask, z, 0, grad_input=out
        ),
    ),
    repr(nn.GELU()): Activation(
        lambda z, out: torch.ops.aten.gelu.out(z.tensor, out=out.tensor),
        lambda mask, z, a, h, out: torch.ops.aten.gelu_backward.grad_input(mask, z, grad_input=out),
    ),
}


def fits(network: nn.Module, recipe: Recipe, device: torch.device) -> bool:
    """Return whether `FastMLP` computes what the recipe means for this network."""
    # A layer that is there twice is twice among the values, but once among the children.
    layers = list(network._modules.values())
    hidden = [layers[first : first + 3] for first in range(1, len(layers) - 1, 3)]
    return (
        type(network) is nn.Sequential
        and [repr(layer) for layer in layers[:1]] == [repr(nn.Flatten())]
        and type(layers[-1]) is nn.Linear
        and all([type(group[0]), type(group[-1])] == [nn.Linear, nn.Dropout] for group in hidden)
        and all(repr(group[1]) in ACTIVATIONS for group in hidden)
        and len(list(network.parameters())) == 2 * (len(hidden) + 1)  # each has a bias of its own
        and all(weights.requires_grad for weights in network.parameters())
        and recipe.optimizer == Adam(kind="adam", learning_rate=recipe.optimizer.learning_rate)
        and recipe.loss == CrossEntropy()
        and not (recipe.augmentation or recipe.drop_last)
        and recipe.shards == 1
        and device.type == "cpu"
    )


class Batch(NamedTuple):
    """The input of one step, n images."""

    inputs: np.ndarray  # float32 [n, pixels] in [0, 1]
    targets: Tensor  # float32 [n, classes]: minus the label's one-hot code, divided by n
    masks: tuple[Tensor, ...]  # float32 [n, units] for each hidden layer: 0 or 1 / (1 - dropout)
    logits: Shared  # float32 [n, classes], to be filled by the step


class Memory:
    """What a step computes for each layer of n images, float32 [n, units]; allocated once."""

    def __init__(self, n: int, widths: list[int]) -> None:
        def allocate(units: list[int]) -> list[Shared]:
            return [Shared.of(torch.empty(n, width)) for width in units]

        self.z = allocate(widths[:-1])  # of each hidden layer: its linear layer's outputs,
        self.a = allocate(widths[:-1])  # their activations,
        self.h = allocate(widths[:-1])  # these after dropout,
        self.slope = allocate(widths[:-1])  # and the derivative of h by z
        self.delta = allocate(widths)  # the gradient by each linear layer's outputs
        self.probabilities = torch.empty(n, widths[-1])


class FusedAdam:
    """Adam on all of a network's parameters as one vector [P], of which they become views.

    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1.
    """

    def __init__(self, network: nn.Module, learning_rate: float):
        parameters = list(network.parameters())
        self.learning_rate = learning_rate
        self.values = parameters_to_vector(parameters).detach()
        vector_to_parameters(self.values, parameters)
        self.gradient = torch.zeros_like(self.values)
        self.state = {
            "first_moment": torch.zeros_like(self.values),
            "second_moment": torch.zeros_like(self.values),
            "steps": torch.zeros(()),
        }
        self.one = torch.ones(())

    def step(self) -> None:
        first_moment, second_moment, steps = self.state.values()
        steps += self.one
        # What torch.optim.Adam(fused=True) calls, without its bookkeeping for each step.
        torch._fused_adam_(
            [self.values],
            [self.gradient],
            [first_moment],
            [second_moment],
            [],
            [steps],
            lr=self.learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class FastMLP:
    """Trains `network` in place, as `loop.Loop` does. Each process of a group trains all of it."""

    def __init__(
        self, network: nn.Module, split: Split, recipe: Recipe, seed: int, group: Group
    ) -> None:
        self.split, self.recipe, self.seed, self.group = split, recipe, seed, group
        self.loss = recipe.loss.build(split.labels, len(split.classes))
        self.adam = FusedAdam(network, recipe.optimizer.learning_rate)
        layers = list(network.children())
        self.activations = [ACTIVATIONS[repr(layer)] for layer in layers[2::3]]
        self.dropouts = [layer.p for layer in layers[3::3] if isinstance(layer, nn.Dropout)]
        parameters = [weights.detach() for weights in network.parameters()]
        pieces = self.adam.gradient.split([weights.numel() for weights in parameters])
        gradients = [piece.view_as(like) for piece, like in zip(pieces, parameters, strict=True)]
        self.parameters = list(network.parameters())
        for weights, gradient in zip(self.parameters, gradients, strict=True):
            weights.grad = gradient  # for `before_step`
        # Of each linear layer: [units, inputs] and [units], and their gradients.
        self.weights = [weights.numpy() for weights in parameters[::2]]
        self.biases = [bias.numpy() for bias in parameters[1::2]]
        self.weight_gradients = [gradient.numpy() for gradient in gradients[::2]]
        self.bias_gradients = gradients[1::2]
        self.widths = [len(bias) for bias in self.biases]
        self.memory: dict[int, Memory] = {}  # by the batch's size: an epoch's last may be smaller

    @np.errstate(all="ignore")  # PyTorch does not warn of overflows either
    @torch.inference_mode()
    def epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, from 1; return means over its batches as they were trained on."""
        size, rng = self.recipe.batch_size, make_generator(self.seed, epoch, batch=1)
        order = torch.randperm(len(self.split), generator=make_generator(self.seed, epoch))
        total = torch.zeros(1 + len(METRICS))
        images_ahead = size * max(1, IMAGES_AHEAD // size)
        prepare = partial(self.prepare, rng=rng)
        with tqdm(
            desc=f"epoch {epoch}", total=len(order), unit="images", disable=self.group.quiet
        ) as bar:
            for batches, logits, labels in ahead(prepare, order.split(images_ahead)):
                for batch in batches:
                    self.step(batch)
                total += totals(self.loss(logits, labels), logits, labels)
                bar.update(len(labels))
        return means(total, len(order))

    @torch.inference_mode()
    def prepare(self, indices: Tensor, rng: torch.Generator) -> tuple[list[Batch], Tensor, Tensor]:
        """Return some batches, and their logits [n, classes], still unset, and labels int64 [n]."""
        images, labels = self.split.take(indices)
        size, classes = self.recipe.batch_size, self.widths[-1]
        sizes = torch.tensor([len(batch) for batch in labels.split(size)])
        targets = -one_hot(labels, classes) / sizes.repeat_interleave(sizes).unsqueeze(1)
        layers = [
            dropout_mask(len(labels), width, dropout, rng).split(size)
            for width, dropout in zip(self.widths, self.dropouts, strict=False)
        ]
        masks = zip(*layers, strict=True) if layers else [()] * len(sizes)
        logits = torch.empty(len(labels), classes)
        inputs = to_input(images).flatten(1)
        batches = [
            Batch(batch_inputs.numpy(), batch_targets, batch_masks, Shared.of(batch_logits))
            for batch_inputs, batch_targets, batch_masks, batch_logits in zip(
                inputs.split(size), targets.split(size), masks, logits.split(size), strict=True
            )
        ]
        return batches, logits, labels

    def step(self, batch: Batch) -> None:
        """Take one step; write the batch's logits."""
        n = len(batch.inputs)
        if n not in self.memory:
            self.memory[n] = Memory(n, self.widths)
        self.backpropagate(batch, self.memory[n])
        before_step(self.parameters)
        self.adam.step()

    def backpropagate(self, batch: Batch, memory: Memory) -> None:
        """Write the gradient of the mean cross-entropy of a batch, and its logits."""
        inputs = [batch.inputs, *(h.array for h in memory.h)]  # of each linear layer
        outputs = [*memory.z, batch.logits]
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            np.dot(inputs[i], weight.T, out=outputs[i].array)
            np.add(outputs[i].array, bias, out=outputs[i].array)
            if i < last:
                self.activations[i].apply(memory.z[i], memory.a[i])
                torch.mul(memory.a[i].tensor, batch.masks[i], out=memory.h[i].tensor)
        # The derivative by the logits: (softmax - one-hot) / n.
        torch.softmax(batch.logits.tensor, 1, out=memory.probabilities)
        deltas = memory.delta
        scale = 1 / len(batch.inputs)
        torch.add(batch.targets, memory.probabilities, alpha=scale, out=deltas[last].tensor)
        for i in range(last, -1, -1):
            delta = deltas[i]
            if i < last:
                np.dot(deltas[i + 1].array, self.weights[i + 1], out=delta.array)
                values = (memory.z[i].tensor, memory.a[i].tensor, memory.h[i].tensor)
                slope = memory.slope[i].tensor
                delta.tensor.mul_(self.activations[i].slope(batch.masks[i], *values, slope))
            np.dot(delta.array.T, inputs[i], out=self.weight_gradients[i])
            torch.sum(delta.tensor, 0, out=self.bias_gradients[i])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is needed to resume, besides the network's own state."""
        return self.adam.state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, values in self.adam.state.items():
            values.copy_(state[name])


def dropout_mask(n: int, units: int, dropout: float, rng: torch.Generator) -> Tensor:
    """Draw float32 [n, units]: 0 with probability `dropout`, else 1 / (1 - dropout)."""
    if dropout == 0:
        return torch.ones(n, units)
    return (torch.rand(n, units, generator=rng) >= dropout).float().div_(1 - dropout)


def ahead(function: Callable[[Item], Prepared], items: Iterable[Item]) -> Iterator[Prepared]:
    """Yield `function` of each item; a thread computes the next while one is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        pending = None
        for item in items:
            following = thread.submit(function, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
