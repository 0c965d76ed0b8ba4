import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from stages.common.params import FeedForwardRecipe, load_params
from stages.network.networks import build
from stages.network.pixels import to_input
from stages.training import loop
from stages.training.feed_forward import Adam, Batch, Gradient, Training, ahead, dropout_mask
from stages.training.loop import views
from stages.training.parallel import Group
from tests.project import ROOT
from tests.samples import random_images, split_of

IMAGES = random_images(70)
LABELS = torch.arange(70) % 10
SPLIT = split_of(IMAGES, LABELS)


def recipe(**changes: object) -> FeedForwardRecipe:
    tutorials = load_params(ROOT / "params.yaml").recipes["tutorial"].model_dump()
    return FeedForwardRecipe(
        **tutorials | {"hidden_sizes": [16], "activations": ["tanh"]} | changes
    )


def trained(seed: int = 0, **changes: object) -> tuple[torch.nn.Module, list[float]]:
    params = recipe(**changes)
    torch.manual_seed(seed)
    network = build(params.architecture, 10)
    training = Training(network, SPLIT, params, seed)
    return network, [training.epoch(epoch).loss for epoch in range(1, params.epochs + 1)]


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("hidden_sizes", "activations"),
    [
        ([96, 256], ["tanh", "sigmoid"]),  # the tutorial's
        ([16, 8], ["relu", "gelu"]),
        ([12], ["sigmoid"]),
        ([], []),
    ],
)
def test_a_hundred_steps_are_those_of_autograd_and_adam(
    hidden_sizes: list[int], activations: list[str]
):
    """The same dropout masks given, weights and loss agree with a plain loop after every step."""
    torch.manual_seed(0)
    network = build(
        recipe(hidden_sizes=hidden_sizes, activations=activations, dropout=0.2).architecture, 10
    )
    reference = copy.deepcopy(network).eval()
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, fused=False)
    # In the reference the masks take the place of its dropout layers.
    masks_now = iter(())
    for layer in reference:
        if isinstance(layer, torch.nn.Dropout):
            layer.register_forward_hook(lambda layer, inputs, output: inputs[0] * next(masks_now))

    adam = Adam(network, learning_rate=1e-3)
    weights = views(adam.values, list(network.parameters()))
    gradient = Gradient(weights, views(adam.gradient, weights), activations, 32)
    noise = torch.Generator().manual_seed(1)
    for _ in range(100):
        batch = torch.randint(0, 70, (32,), generator=noise)
        masks = tuple(dropout_mask(32, units, 0.2, noise) for units in hidden_sizes)
        targets = -one_hot(LABELS[batch], 10) / 32
        step = Batch(to_input(IMAGES[batch]).flatten(1), targets, masks, torch.empty(32, 10))
        with torch.inference_mode():
            gradient(step)
            adam.step()

        masks_now = iter(masks)
        logits = reference(IMAGES[batch].unsqueeze(1) / 255)
        optimizer.zero_grad()
        cross_entropy(logits, LABELS[batch]).backward()
        torch.testing.assert_close(step.logits, logits, atol=1e-4, rtol=1e-4)
        optimizer.step()
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("hidden_sizes", "activations"),
    [([96, 256], ["tanh", "sigmoid"]), ([16, 8], ["relu", "gelu"]), ([], [])],
)
def test_without_dropout_a_training_is_the_plain_loop_s(
    hidden_sizes: list[int], activations: list[str]
):
    params = recipe(hidden_sizes=hidden_sizes, activations=activations, dropout=0.0, epochs=3)
    torch.manual_seed(0)
    network = build(params.architecture, 10)
    reference = copy.deepcopy(network)
    training, plain = (
        Training(network, SPLIT, params, 0),
        loop.Training(reference, SPLIT, params, 0, Group()),
    )
    for epoch in (1, 2, 3):
        assert training.epoch(epoch) == pytest.approx(plain.epoch(epoch), rel=1e-5)
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_training_learns_the_images():
    _, losses = trained(epochs=60, learning_rate=3e-3, dropout=0.0, hidden_sizes=[64])
    assert len(losses) == 60
    assert losses[0] > 2
    assert losses[-1] < 0.5


def test_the_same_seed_gives_the_same_network_and_another_seed_another():
    network, _ = trained(epochs=2)
    assert equal(network, trained(epochs=2)[0])
    assert not equal(network, trained(epochs=2, seed=1)[0])


def test_a_network_without_hidden_layers_is_trained():
    _, losses = trained(epochs=20, hidden_sizes=[], activations=[], learning_rate=1e-2)
    assert losses[-1] < losses[0]


def test_dropout_is_part_of_training():
    assert not equal(trained(epochs=1)[0], trained(epochs=1, dropout=0.5)[0])


def test_dropout_keeps_the_share_and_the_mean():
    mask = dropout_mask(1000, 100, 0.2, torch.Generator().manual_seed(0))
    assert mask.unique().tolist() == pytest.approx([0, 1.25])
    assert (mask == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert dropout_mask(3, 4, 0.0, torch.Generator()).eq(1).all()


def test_what_is_computed_ahead_comes_in_order_and_tells_its_errors():
    assert list(ahead(lambda item: item * 2, [1, 2, 3])) == [2, 4, 6]
    assert list(ahead(lambda item: item, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 / item, [1, 0]))
