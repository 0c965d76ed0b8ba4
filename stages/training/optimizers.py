"""The optimizers and schedules that a recipe can choose.

To add one: a class, and a name in `Schedule` or `Optimizer` after the other classes.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from stages.runtime.config import NotNegative, Section, Share


class Constant(Section):
    """The same learning rate in all steps."""

    kind: Literal["constant"] = "constant"

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the learning rate in `step`, from 0, of `steps`."""
        return 1.0


class Linear(Section):
    """Rises linearly from 0 over the share `warmup` of the steps, then falls linearly to 0."""

    kind: Literal["linear"]
    warmup: Share

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the learning rate in `step`, from 0, of `steps`."""
        rise = self.warmup * steps
        return min(1, (step + 1) / max(rise, 1), (steps - step) / (steps - rise))


class Cosine(Section):
    """Rises linearly from 0 over the share `warmup` of the steps, then falls along half a cosine to 0.

    I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, equation 5.
    """

    kind: Literal["cosine"]
    warmup: Share

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the learning rate in `step`, from 0, of `steps`."""
        rise = self.warmup * steps
        if step < rise:
            return (step + 1) / max(rise, 1)
        return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


Schedule = Annotated[Constant | Linear | Cosine, Field(discriminator="kind")]


class _Optimizer(Section):
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Schedule = Constant()


class Adam(_Optimizer):
    """D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2015."""

    kind: Literal["adam"]

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.learning_rate, fused=True)


class AdamW(_Optimizer):
    """I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2019."""

    kind: Literal["adamw"]
    weight_decay: NotNegative  # of matrices and kernels

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        groups = _groups(network, self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum, as torch.optim.SGD defines it."""

    kind: Literal["sgd"]
    momentum: Share
    nesterov: bool
    weight_decay: NotNegative  # of matrices and kernels

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            _groups(network, self.weight_decay),
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
            fused=True,
        )


Optimizer = Annotated[Adam | AdamW | SGD, Field(discriminator="kind")]


def _groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Return torch's parameter groups: biases and normalisations do not decay."""
    parameters = list(network.parameters())
    return [
        {
            "params": [weights for weights in parameters if weights.ndim > 1],
            "weight_decay": weight_decay,
        },
        {"params": [weights for weights in parameters if weights.ndim <= 1], "weight_decay": 0.0},
    ]


def make_schedule(optimizer: torch.optim.Optimizer, config: Schedule, steps: int) -> LambdaLR:
    """Return the schedule of an optimizer's learning rate over all `steps` of a training."""
    return LambdaLR(optimizer, lambda step: config.factor(step, steps))
