import pytest
import torch

from stages.networks.registry import build
from stages.training.loop import Loop
from stages.training.optimizers import Constant, Cosine, Linear, make_schedule
from stages.training.parallel import Group
from stages.training.recipe import Recipe
from tests.samples import SHAPE, random_images, recipe_of, split_of

SPLIT = split_of(random_images(40), torch.arange(40) % 10)
OPTIMIZERS = [
    {"kind": "adam", "learning_rate": 1e-3},
    {"kind": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
    {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
]
SCHEDULES = [
    {"kind": "constant"},
    {"kind": "linear", "warmup": 0.1},
    {"kind": "cosine", "warmup": 0.1},
]


def recipe_with(name: str, optimizer: dict) -> Recipe:
    return recipe_of(name, optimizer=optimizer, epochs=4, batch_size=10, shards=2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["fast", "convolutional"])
def test_any_optimizer_and_schedule_trains_any_network(name: str, optimizer: dict, schedule: dict):
    recipe = recipe_with(name, optimizer | {"schedule": schedule})
    torch.manual_seed(0)
    network = build(recipe.network, SHAPE, 10)
    loop = Loop(network, SPLIT, recipe, 0, Group())
    losses = [loop.epoch(epoch)["loss"] for epoch in range(1, 5)]
    assert losses[-1] < losses[0]


def rates(schedule: Constant | Linear | Cosine, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_schedule(optimizer, schedule, steps)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    "schedule", [Linear(kind="linear", warmup=0.2), Cosine(kind="cosine", warmup=0.2)]
)
def test_the_learning_rate_rises_and_falls(schedule: Linear | Cosine):
    values = rates(schedule, 100)
    assert values[:3] == pytest.approx([0.05, 0.1, 0.15])
    assert max(values) == values[19] == 1
    assert values[19:] == sorted(values[19:], reverse=True)
    assert 0 < values[-1] < 0.02


def test_a_linear_schedule_is_straight_and_a_cosine_is_half_way_in_the_middle():
    assert rates(Constant(), 5) == [1.0] * 5
    assert rates(Linear(kind="linear", warmup=0.2), 100)[60] == pytest.approx(0.5)
    assert rates(Linear(kind="linear", warmup=0.0), 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates(Cosine(kind="cosine", warmup=0.0), 4)[2] == pytest.approx(0.5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS[1:3])
def test_only_matrices_and_kernels_decay(optimizer: dict):
    recipe = recipe_with("convolutional", optimizer)
    built = recipe.optimizer.build(build(recipe.network, SHAPE, 10))
    decaying, others = built.param_groups
    assert decaying["weight_decay"] == 0.1
    assert {weights.ndim for weights in decaying["params"]} == {2, 4}
    assert (others["weight_decay"], {weights.ndim for weights in others["params"]}) == (0.0, {1})
