"""The training loop with gradients written out, for feed-forward networks on a CPU.

A batch of 32 is so little arithmetic that autograd, the optimizer's bookkeeping and fresh memory for
each result take longer than the matrix products. So here each step writes into memory that is set aside
once, all parameters are one vector to Adam, and the next batches are prepared on another core: an
epoch of the tutorial's recipe takes a quarter of the time of the plain loop (benchmarks/results.md).
Products and tanh are asked of NumPy directly, from which `network.kernels` has them, too.
The result is that of `loop.Training` up to rounding, and to other draws for dropout:
tests/training/test_feed_forward.py.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from stages.common.params import FeedForwardRecipe
from stages.common.splits import Split
from stages.network.pixels import to_input
from stages.training.loop import Result, views
from stages.training.setup import draws

Item = TypeVar("Item")
Made = TypeVar("Made")

IMAGES_AHEAD = 1024  # prepared at once: enough that handing them over costs little


class Activation(NamedTuple):
    """An activation and its derivative, each into `out`; all arguments are float32 [n, units].

    `slope(mask, z, a, h, out)` gives mask · f'(z), where a = f(z) and h = mask · a.
    """

    apply: Callable[..., Tensor]  # (z, out)
    slope: Callable[..., Tensor]


ACTIVATIONS = {
    # tanh' = 1 - tanh²
    "tanh": Activation(
        lambda z, out: np.tanh(z.numpy(), out=out.numpy()),
        lambda m, z, a, h, out: torch.addcmul(m, h, a, value=-1, out=out),
    ),
    # sigmoid' = sigmoid · (1 - sigmoid)
    "sigmoid": Activation(
        torch.sigmoid, lambda m, z, a, h, out: torch.addcmul(h, h, a, value=-1, out=out)
    ),
    "relu": Activation(
        lambda z, out: torch.clamp_min(z, 0, out=out),
        lambda m, z, a, h, out: torch.ops.aten.threshold_backward.grad_input(
            m, z, 0, grad_input=out
        ),
    ),
    "gelu": Activation(
        torch.ops.aten.gelu.out,
        lambda m, z, a, h, out: torch.ops.aten.gelu_backward.grad_input(m, z, grad_input=out),
    ),
}


class Adam:
    """Adam on all of a network's parameters as one vector [P], of which they become views.

    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1.
    """

    def __init__(self, network: nn.Module, learning_rate: float):
        parameters = list(network.parameters())
        self.learning_rate = learning_rate
        self.values = parameters_to_vector(parameters).detach()
        vector_to_parameters(self.values, parameters)
        self.gradient = torch.zeros_like(self.values)
        self.first_moment = torch.zeros_like(self.values)
        self.second_moment = torch.zeros_like(self.values)
        self.steps = torch.zeros(())
        self._one = torch.ones_like(self.steps)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, values in self.state_dict().items():
            values.copy_(state[name])

    def step(self) -> None:
        self.steps += self._one
        # What torch.optim.Adam(fused=True) calls, without its bookkeeping for each step.
        torch._fused_adam_(
            [self.values],
            [self.gradient],
            [self.first_moment],
            [self.second_moment],
            [],
            [self.steps],
            lr=self.learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class Batch(NamedTuple):
    """What one step takes in, n images."""

    inputs: Tensor  # float32 [n, 784] in [0, 1]
    targets: Tensor  # float32 [n, classes]: minus the label's one-hot code, divided by n
    masks: tuple[Tensor, ...]  # float32 [n, units] a hidden layer: 0 or 1 / (1 - dropout)
    logits: Tensor  # float32 [n, classes], to be filled by the step


class Layer(NamedTuple):
    """A linear layer, and what a step computes for it. Arrays share the memory of tensors."""

    weight: np.ndarray  # float32 [units, inputs]
    bias: np.ndarray  # float32 [units]
    weight_gradient: np.ndarray  # float32 [units, inputs]
    bias_gradient: Tensor  # float32 [units]
    delta: Tensor  # float32 [n, units], the gradient by the layer's outputs
    deltas: np.ndarray  # the same


class Hidden(NamedTuple):
    """What follows a hidden layer; all tensors are float32 [n, units]."""

    activation: Activation
    z: Tensor
    a: Tensor
    h: Tensor
    slope: Tensor
    outputs: np.ndarray  # of the linear layer: z
    inputs: np.ndarray  # of the next linear layer: h


class Gradient:
    """The gradient of the mean cross-entropy over `size` images, by backpropagation.

    `weights` and `gradients` hold a weight [units, inputs] and a bias [units] for each layer.
    """

    def __init__(
        self, weights: list[Tensor], gradients: list[Tensor], activations: list[str], size: int
    ):
        def buffers(count: int, units: int) -> list[Tensor]:
            return [weights[0].new_empty(size, units) for _ in range(count)]

        self._layers = []
        for weight, bias, weight_gradient, bias_gradient in zip(
            weights[::2], weights[1::2], gradients[::2], gradients[1::2], strict=True
        ):
            arrays = (part.numpy() for part in (weight, bias, weight_gradient))
            [delta] = buffers(1, len(bias))
            self._layers.append(Layer(*arrays, bias_gradient, delta, delta.numpy()))
        self._hidden = []
        for name, bias in zip(activations, weights[1::2], strict=False):
            z, a, h, slope = buffers(4, len(bias))
            self._hidden.append(Hidden(ACTIVATIONS[name], z, a, h, slope, z.numpy(), h.numpy()))
        [self._probabilities] = buffers(1, len(weights[-1]))
        self._scale = 1 / size

    def __call__(self, batch: Batch) -> None:
        """Write the gradient of one batch, and its logits."""
        inputs = [batch.inputs.numpy()]
        for layer, hidden, mask in zip(self._layers, self._hidden, batch.masks, strict=False):
            linear(layer, inputs[-1], hidden.outputs)
            hidden.activation.apply(hidden.z, out=hidden.a)
            torch.mul(hidden.a, mask, out=hidden.h)
            inputs.append(hidden.inputs)
        linear(self._layers[-1], inputs[-1], batch.logits.numpy())
        # The derivative by the logits: (softmax - one-hot) / n.
        torch.softmax(batch.logits, 1, out=self._probabilities)
        last = self._layers[-1].delta
        torch.add(batch.targets, self._probabilities, alpha=self._scale, out=last)
        for i in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[i]
            np.dot(layer.deltas.T, inputs[i], out=layer.weight_gradient)
            torch.sum(layer.delta, 0, out=layer.bias_gradient)
            if i > 0:
                below, hidden = self._layers[i - 1], self._hidden[i - 1]
                np.dot(layer.deltas, layer.weight, out=below.deltas)
                below.delta.mul_(
                    hidden.activation.slope(
                        batch.masks[i - 1], hidden.z, hidden.a, hidden.h, out=hidden.slope
                    )
                )


def linear(layer: Layer, inputs: np.ndarray, out: np.ndarray) -> None:
    """Write what a layer makes of inputs [n, inputs] into `out` [n, units]."""
    np.dot(inputs, layer.weight.T, out=out)
    np.add(out, layer.bias, out=out)


class Training:
    """Trains `network` in place, as `loop.Training` does, on the CPU and on whole batches."""

    def __init__(
        self, network: nn.Module, split: Split, recipe: FeedForwardRecipe, seed: int
    ) -> None:
        self._split, self._recipe, self._seed = split, recipe, seed
        self._adam = Adam(network, recipe.learning_rate)
        self._weights = views(self._adam.values, list(network.parameters()))
        self._gradients = views(self._adam.gradient, self._weights)
        self._gradient_of = {}  # by the size of the batch: the last one of an epoch may be smaller

    @np.errstate(all="ignore")  # as PyTorch, which does not warn of what overflows
    @torch.inference_mode()
    def epoch(self, epoch: int) -> Result:
        """Train for one epoch; the first is 1."""
        size, noise = self._recipe.batch_size, draws(self._seed, epoch, batch=1)
        order = torch.randperm(len(self._split), generator=draws(self._seed, epoch))
        total_loss, right = torch.zeros(()), torch.zeros(())
        # disable=None: a bar on a terminal only
        bar = tqdm(total=len(order), desc=f"epoch {epoch}", unit="images", disable=None)
        images_ahead = size * max(1, IMAGES_AHEAD // size)
        prepare = partial(self._prepare, noise=noise)
        for batches, logits, labels in ahead(prepare, order.split(images_ahead)):
            for batch in batches:
                self._step(batch)
            total_loss += cross_entropy(logits, labels, reduction="sum")
            right += (logits.argmax(dim=1) == labels).sum()
            bar.update(len(labels))
        bar.close()
        return Result(total_loss.item() / len(order), right.item() / len(order))

    @torch.inference_mode()
    def _prepare(
        self, indices: Tensor, noise: torch.Generator
    ) -> tuple[list[Batch], Tensor, Tensor]:
        """Return some batches, and their logits [n, classes], still unset, and labels int64 [n]."""
        images, labels = self._split.take(indices)
        size, classes = self._recipe.batch_size, len(self._weights[-1])
        sizes = torch.tensor([len(part) for part in labels.split(size)])
        targets = -one_hot(labels, classes) / sizes.repeat_interleave(sizes).unsqueeze(1)
        layers = [
            dropout_mask(len(labels), units, self._recipe.dropout, noise).split(size)
            for units in self._recipe.hidden_sizes
        ]
        masks = zip(*layers, strict=True) if layers else [()] * len(sizes)
        logits = torch.empty(len(labels), classes)
        inputs = to_input(images).flatten(1)
        parts = (inputs.split(size), targets.split(size), masks, logits.split(size))
        return [Batch(*part) for part in zip(*parts, strict=True)], logits, labels

    def _step(self, batch: Batch) -> None:
        size = len(batch.inputs)
        if size not in self._gradient_of:
            self._gradient_of[size] = Gradient(
                self._weights, self._gradients, self._recipe.activations, size
            )
        self._gradient_of[size](batch)
        self._adam.step()

    def state_dict(self) -> dict:
        """Return what is needed to go on, besides the network's own state."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self._adam.load_state_dict(state)


def dropout_mask(n: int, units: int, dropout: float, generator: torch.Generator) -> Tensor:
    """Draw float32 [n, units]: 0 with probability `dropout`, else 1 / (1 - dropout)."""
    if dropout == 0:
        return torch.ones(n, units)
    draws = torch.rand(n, units, generator=generator)
    return (draws >= dropout).float().div_(1 - dropout)


def ahead(function: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yield `function` of each item; the next is computed by a thread while one is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        pending = None
        for item in items:
            following = thread.submit(function, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
