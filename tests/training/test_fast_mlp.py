"""The fast loop for feed-forward networks, held to the plain one and to autograd."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import stages.training.fast_mlp
import stages.training.loop
from stages.networks.pixels import to_input
from stages.networks.registry import build
from stages.training.fast_mlp import Batch, FastMLP, Shared, ahead, dropout_mask, fits
from stages.training.loop import Loop
from stages.training.parallel import Group
from stages.training.recipe import Recipe
from tests.samples import OURS, SHAPE, random_images, recipe_of, split_of
from tests.training.networks import RandomNetwork

IMAGES = random_images(70)
LABELS = torch.arange(70) % 10
SPLIT = split_of(IMAGES, LABELS)
CPU = torch.device("cpu")


def recipe(**changes: object) -> Recipe:
    small = {"network.hidden_sizes": [16], "network.activations": ["tanh"]}
    return recipe_of("tutorial", **small | changes)


def network_of(recipe: Recipe, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(recipe.network, SHAPE, 10)


def trained(recipe: Recipe, seed: int = 0) -> tuple[nn.Module, list[float]]:
    network = network_of(recipe, seed)
    trainer = FastMLP(network, SPLIT, recipe, seed, Group())
    return network, [trainer.epoch(epoch)["loss"] for epoch in range(1, recipe.epochs + 1)]


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


networks = pytest.mark.parametrize(
    ("hidden_sizes", "activations"),
    [
        ([96, 256], ["tanh", "sigmoid"]),  # the tutorial's
        ([16, 8], ["relu", "gelu"]),
        ([12], ["sigmoid"]),
        ([], []),
    ],
)


@networks
def test_a_hundred_steps_are_those_of_autograd_and_adam(
    unclipped: None, hidden_sizes: list[int], activations: list[str]
):
    """With the same dropout masks, weights and logits agree with a plain loop after every step."""
    changes = {"network.hidden_sizes": hidden_sizes, "network.activations": activations}
    network = network_of(recipe(**changes))
    reference = copy.deepcopy(network).eval()
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, fused=False)
    # In the reference the masks take the place of its dropout layers.
    masks_now = iter(())
    for layer in reference:
        if isinstance(layer, nn.Dropout):
            layer.register_forward_hook(lambda layer, inputs, output: inputs[0] * next(masks_now))

    trainer = FastMLP(network, SPLIT, recipe(**changes), 0, Group())
    rng = torch.Generator().manual_seed(1)
    for _ in range(100):
        batch = torch.randint(0, 70, (32,), generator=rng)
        masks = tuple(dropout_mask(32, units, 0.2, rng) for units in hidden_sizes)
        inputs = to_input(IMAGES[batch]).flatten(1).numpy()
        targets = -one_hot(LABELS[batch], 10) / 32
        step = Batch(inputs, targets, masks, Shared.of(torch.empty(32, 10)))
        with torch.inference_mode():
            trainer.step(step)

        masks_now = iter(masks)
        logits = reference(IMAGES[batch].unsqueeze(1) / 255)
        optimizer.zero_grad()
        cross_entropy(logits, LABELS[batch]).backward()
        torch.testing.assert_close(step.logits.tensor, logits, atol=1e-4, rtol=1e-4)
        optimizer.step()
    for weights, expected in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weights, expected, atol=1e-4, rtol=1e-4)


@networks
def test_without_dropout_it_trains_as_the_plain_loop(
    unclipped: None, hidden_sizes: list[int], activations: list[str]
):
    changes = {"network.hidden_sizes": hidden_sizes, "network.activations": activations}
    plain = recipe(**changes | {"network.dropout": 0.0})
    network = network_of(plain)
    reference = copy.deepcopy(network)
    fast, loop = (
        kind(model, SPLIT, plain, 0, Group())
        for kind, model in ((FastMLP, network), (Loop, reference))
    )
    for epoch in (1, 2, 3):
        assert fast.epoch(epoch) == pytest.approx(loop.epoch(epoch), rel=1e-5)
    for weights, expected in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weights, expected, atol=1e-4, rtol=1e-4)


def test_either_trainer_changes_gradients_before_a_step(monkeypatch: pytest.MonkeyPatch):
    plain = recipe(**{"network.dropout": 0.0, "epochs": 2})
    unchanged, _ = trained(plain)
    for module in (stages.training.loop, stages.training.fast_mlp):
        clip = partial(nn.utils.clip_grad_value_, clip_value=1e-3)
        monkeypatch.setattr(module, "before_step", clip)
    clipped, _ = trained(plain)
    loop_network = network_of(plain)
    loop = Loop(loop_network, SPLIT, plain, 0, Group())
    for epoch in (1, 2):
        loop.epoch(epoch)
    assert not equal(clipped, unchanged)
    for weights, expected in zip(clipped.parameters(), loop_network.parameters(), strict=True):
        torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-4)


def test_training_learns_the_images():
    changes = {"network.hidden_sizes": [64], "network.dropout": 0.0, "epochs": 60}
    _, losses = trained(recipe(**changes | {"optimizer.learning_rate": 3e-3}))
    assert losses[0] > 2
    assert losses[-1] < 0.5


def test_the_same_seed_gives_the_same_network_and_another_seed_another():
    network, _ = trained(recipe(epochs=2))
    assert equal(network, trained(recipe(epochs=2))[0])
    assert not equal(network, trained(recipe(epochs=2), seed=1)[0])


def test_dropout_is_part_of_training():
    more = recipe(epochs=1, **{"network.dropout": 0.5})
    assert not equal(trained(recipe(epochs=1))[0], trained(more)[0])


@pytest.mark.parametrize("name", OURS)
def test_it_takes_our_feed_forward_recipes(name: str):
    recipe = recipe_of(name)
    assert fits(network_of(recipe), recipe, CPU) == (name in ("tutorial", "fast"))


def test_it_takes_what_it_computes_and_nothing_else():
    tutorial = recipe()
    assert fits(network_of(tutorial), tutorial, CPU)
    no_layers = recipe(**{"network.hidden_sizes": [], "network.activations": []})
    assert fits(network_of(no_layers), no_layers, CPU)
    for change in (
        {"shards": 2},
        {"drop_last": True},
        {"loss": {"kind": "cross_entropy", "label_smoothing": 0.1}},
        {"augmentation": [{"kind": "elastic", "displacement": 1.0}]},
        {"optimizer": {"kind": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0}},
        {"optimizer.schedule": {"kind": "cosine", "warmup": 0.0}},
    ):
        assert not fits(network_of(tutorial), recipe(**change), CPU), change
    assert not fits(network_of(tutorial), tutorial, torch.device("cuda"))
    flatten, first, tanh, dropout, last = network_of(tutorial)
    frozen, square = nn.Linear(784, 16).requires_grad_(False), nn.Linear(784, 784)
    for network in (
        nn.Sequential(),
        nn.Sequential(flatten, frozen, tanh, dropout, last),
        nn.Sequential(flatten, *[square, tanh, dropout] * 2, nn.Linear(784, 10)),  # shared
        RandomNetwork(),
        nn.Sequential(flatten, first, nn.Softplus(), dropout, last),
        nn.Sequential(flatten, first, tanh, nn.AlphaDropout(0.1), last),
        nn.Sequential(flatten, first, tanh, last),
        nn.Sequential(flatten, nn.Linear(784, 16, bias=False), tanh, dropout, last),
        nn.Sequential(flatten, first, tanh, dropout, nn.Sequential(last)),
    ):
        assert not fits(network, tutorial, CPU), network


def test_dropout_keeps_the_share_and_the_mean():
    mask = dropout_mask(1000, 100, 0.2, torch.Generator().manual_seed(0))
    assert mask.unique().tolist() == pytest.approx([0, 1.25])
    assert (mask == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert dropout_mask(3, 4, 0.0, torch.Generator()).eq(1).all()


def test_values_computed_ahead_come_in_order_with_their_errors():
    assert list(ahead(lambda item: item * 2, [1, 2, 3])) == [2, 4, 6]
    assert list(ahead(lambda item: item, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 / item, [1, 0]))
