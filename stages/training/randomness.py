"""Where a training's random numbers come from: a generator of its own for each shard.

torch's default generator belongs to all threads. A network's layers (dropout, RReLU, stochastic depth)
draw from it unless they are given another, which they have no argument for. So a shard computes under a
dispatch mode that hands its generator to each random operation, whichever layer calls it.
"""

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode  # documented, for all its underscore

from stages.runtime.errors import UserError


def make_generator(
    seed: int, epoch: int, batch: int = 0, shard: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the generator, on `device`, of one shard of one batch of one epoch.

    Batch 0 is the epoch itself: the order of its images. No generator outlives its shard, so any
    process can compute any shard, and a training can resume at any epoch.
    """
    mixed = np.random.SeedSequence((seed, epoch, batch, shard)).generate_state(1)
    return torch.Generator(device).manual_seed(int(mixed[0]))


TORCH = "torch's default generator"


class UnseededError(UserError):
    """An operation draws random numbers, but not from a generator of ours."""


class _DrawFrom(TorchDispatchMode):
    def __init__(self, rng: torch.Generator | None):
        super().__init__()
        self._rng = rng

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # True would import torch's compiler, nearly a second
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            if self._rng is None:
                raise UnseededError(f"{func} draws random numbers in the backward pass")
            func, kwargs = _with_generator(func), {**kwargs, "generator": self._rng}
        return func(*args, **kwargs)


def _with_generator(func: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """Return the overload of a random operation that takes a generator, such as rand.generator.

    Raises:
        UnseededError: there is none.
    """
    prefix = "" if func._overloadname == "default" else f"{func._overloadname}_"
    for overload in (func, getattr(func.overloadpacket, f"{prefix}generator", None)):
        if overload and any(
            argument.name == "generator" for argument in overload._schema.arguments
        ):
            return overload
    raise UnseededError(f"{func} draws random numbers, but takes no generator")


@contextmanager
def draw_from(rng: torch.Generator | None, device: torch.device | str = "cpu") -> Iterator[None]:
    """Have each random operation of the block, in this thread, draw from `rng`.

    On another device than the CPU, where one thread trains, the default generators are seeded instead.
    None is for a backward pass: gradient checkpointing would draw other numbers than the forward pass.

    Raises:
        UnseededError: an operation on the CPU takes no generator, or draws although `rng` is None; the
            message names it.
    """
    if torch.device(device).type == "cpu":
        with _DrawFrom(rng):
            yield
    else:
        if rng is not None:
            torch.manual_seed(rng.initial_seed())
        yield


DrawFrom = Callable[[torch.Generator | None], AbstractContextManager]


def choose_draw_from(compute_shard: Callable[[], object], device: torch.device) -> DrawFrom:
    """Return `draw_from` on `device`, or a context that does nothing if a shard draws nothing.

    The dispatch mode sees each operation, also of networks that draw nothing, and makes a step of the
    recipe `convolutional` a third slower. `no_global_generators` notices what this trial has not shown.
    """
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            compute_shard()
            if torch.equal(torch.get_rng_state(), before):
                return nullcontext
    return partial(draw_from, device=device)


@contextmanager
def no_global_generators(device: torch.device) -> Iterator[None]:
    """Refuse a block that draws from the global generators of Python, NumPy or, on a CPU, torch.

    They belong to all threads, and neither a recipe's seed nor a checkpoint sets them.

    Raises:
        UnseededError: the block has drawn from one; the message names it.
    """
    before = _global_states()
    yield
    for name, state in _global_states().items():
        if state != before[name] and (name != TORCH or device.type == "cpu"):
            raise UnseededError(
                f"{name} drew random numbers; draw them by torch, in an augmentation from `rng`, in "
                "a network from its first step on"
            )


def _global_states() -> dict[str, bytes]:
    return {
        TORCH: torch.get_rng_state().numpy().tobytes(),
        "Python's random": pickle.dumps(random.getstate()),
        "numpy.random": pickle.dumps(np.random.get_state()),
    }
