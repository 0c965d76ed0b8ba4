"""Whatever layer draws random numbers, it draws them from the generator that is handed over."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stages.training.randomness import (
    UnseededError,
    draw_from,
    make_generator,
    no_global_generators,
)

ONES = torch.ones(4, 8, 6, 6)


def stochastic_depth(images: torch.Tensor) -> torch.Tensor:
    """As torchvision.ops.stochastic_depth draws."""
    return images * torch.empty(len(images), 1, 1, 1).bernoulli_(0.5)


DRAWS = {
    "dropout": nn.Dropout(0.5),
    "dropout of channels": nn.Dropout2d(0.5),
    "alpha dropout": nn.AlphaDropout(0.5),
    "feature alpha dropout": nn.FeatureAlphaDropout(0.5),
    "RReLU": lambda images: nn.RReLU()(-images),
    "stochastic depth": stochastic_depth,
    "rand": lambda images: images * torch.rand(4, 1, 1, 1),
    "rand_like": lambda images: images * torch.rand_like(images),
    "randn": lambda images: images + torch.randn(images.shape),
    "randint": lambda images: images * torch.randint(2, 9, (4, 1, 1, 1)),
    "randperm": lambda images: images * torch.randperm(4).view(4, 1, 1, 1),
    "normal_": lambda images: images + torch.empty(4, 1, 1, 1).normal_(),
    "multinomial": lambda images: images * torch.multinomial(torch.ones(100), 4).view(4, 1, 1, 1),
    "attention": lambda images: nn.functional.scaled_dot_product_attention(
        images, images * torch.arange(6.0), images, dropout_p=0.5
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_an_operation_draws_from_the_generator_and_from_no_other(name: str):
    def drawn(seed: int, default_seed: int) -> torch.Tensor:
        torch.manual_seed(default_seed)
        before = torch.get_rng_state()
        with draw_from(make_generator(seed, epoch=1)):
            result = DRAWS[name](ONES)
        assert torch.equal(torch.get_rng_state(), before)
        return result

    assert torch.equal(drawn(1, 1), drawn(1, 2))
    assert any(not torch.equal(drawn(1, 1), drawn(seed, 1)) for seed in (2, 3, 4))


def test_the_numbers_are_those_of_the_default_generator_of_this_seed():
    torch.manual_seed(3)
    expected = nn.Linear(5, 4).weight
    with draw_from(torch.Generator().manual_seed(3)):
        assert torch.equal(nn.Linear(5, 4).weight, expected)


def test_a_generator_that_the_caller_names_stays():
    expected = torch.rand(5, generator=torch.Generator().manual_seed(3))
    with draw_from(torch.Generator().manual_seed(4)):
        assert torch.equal(torch.rand(5, generator=torch.Generator().manual_seed(3)), expected)


def test_an_operation_without_a_generator_is_refused_by_name():
    with (
        draw_from(make_generator(0, 1)),
        pytest.raises(UnseededError, match=r"^aten\.native_dropout\S* draws random numbers, but"),
    ):
        torch.native_dropout(ONES, 0.5, True)


def test_a_dropout_that_the_backward_pass_repeats_is_refused():
    """Gradient checkpointing rewinds torch's default generator, but none that is handed over."""
    images = ONES.clone().requires_grad_()
    with draw_from(make_generator(0, 1)):
        result = checkpoint(nn.Dropout(0.5), images, use_reentrant=False)
    with draw_from(None), pytest.raises(UnseededError, match="in the backward pass"):
        torch.autograd.grad(result.sum(), images)


def test_each_shard_of_each_batch_of_each_epoch_has_a_generator_of_its_own():
    places = [(0, 1), (1, 1), (0, 2), (0, 1, 1), (0, 1, 1, 1), (0, 1, 2, 0)]
    seeds = {make_generator(*place).initial_seed() for place in places}
    assert len(seeds) == len(places)


@pytest.mark.parametrize(
    ("draw", "name"), [(random.random, "Python's random"), (np.random.rand, r"numpy\.random")]
)
def test_the_global_generators_of_python_and_numpy_are_refused(
    draw: Callable[[], float], name: str
):
    with (
        pytest.raises(UnseededError, match=f"^{name} drew random"),
        no_global_generators(torch.device("cpu")),
    ):
        draw()
