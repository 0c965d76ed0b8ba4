"""The plain loop, held to one written out once more with nothing but torch."""

import io

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from stages.common.params import FeedForwardRecipe, Recipe, load_params
from stages.network.inference import predict_batches
from stages.network.networks import build
from stages.network.pixels import to_input
from stages.training import feed_forward, loop
from stages.training.distortion import distort, draw
from stages.training.loop import Training
from stages.training.parallel import Group
from stages.training.setup import draws
from tests.project import ROOT
from tests.samples import random_images, split_of

IMAGES = random_images(70)
LABELS = torch.arange(70) % 10
SPLIT = split_of(IMAGES, LABELS)
RECIPES = load_params(ROOT / "params.yaml").recipes


def trainer(fast: bool, network: nn.Module, recipe: Recipe) -> Training | feed_forward.Training:
    if fast:
        return feed_forward.Training(network, SPLIT, recipe, 0)
    return Training(network, SPLIT, recipe, 0, Group())


def all_epochs(training: Training, recipe: Recipe) -> list[loop.Result]:
    return [training.epoch(epoch) for epoch in range(1, recipe.epochs + 1)]


def test_an_epoch_sees_every_image_once_in_batches():
    recipe = FeedForwardRecipe(**RECIPES["tutorial"].model_dump() | {"dropout": 0.0, "epochs": 3})
    torch.manual_seed(0)
    network = build(recipe.architecture, 10)
    results = all_epochs(Training(network, SPLIT, recipe, 0, Group()), recipe)

    torch.manual_seed(0)
    reference = build(recipe.architecture, 10)
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    for epoch, result in enumerate(results, start=1):
        shuffle = draws(0, epoch)
        order, total, right = torch.randperm(70, generator=shuffle), 0.0, 0
        for start in range(0, 70, 32):
            batch = order[start : start + 32]
            logits = reference(IMAGES[batch].unsqueeze(1) / 255)
            loss = cross_entropy(logits, LABELS[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            right += (logits.argmax(dim=1) == LABELS[batch]).sum().item()
        assert result == pytest.approx((total / 70, right / 70), rel=1e-5)
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["tutorial", "convolutional"])
def test_training_learns_the_images(name: str):
    """Ten shapes, each in a place of its own."""
    images = torch.zeros(70, 28, 28, dtype=torch.uint8)
    for image, label in zip(images, LABELS, strict=True):
        image[2 + 2 * label : 6 + 2 * label, 4:24] = 255
    changes = {"epochs": 12, "batch_size": 14, "learning_rate": 1e-2} | {
        key: 0.0
        for key in ("dropout", "rotation", "scaling", "shear", "shift")
        if key in RECIPES[name].model_dump()
    }
    recipe = RECIPES[name].model_copy(update=changes)
    torch.manual_seed(0)
    network = build(recipe.architecture, 10)
    results = all_epochs(Training(network, split_of(images, LABELS), recipe, 0, Group(2)), recipe)
    assert len(results) == 12
    assert results[0].loss > 0.5
    assert results[-1].loss < 0.2
    assert results[-1].accuracy > 0.9


@pytest.mark.parametrize(
    ("name", "fast"), [("tutorial", False), ("tutorial", True), ("convolutional", False)]
)
def test_a_training_goes_on_from_its_state_as_if_nothing_had_happened(name: str, fast: bool):
    """And what is done between epochs, such as a validation, does not show."""
    recipe = RECIPES[name].model_copy(update={"epochs": 4, "batch_size": 14})
    torch.manual_seed(0)
    network = build(recipe.architecture, 10)
    expected = all_epochs(trainer(fast, network, recipe), recipe)

    torch.manual_seed(0)
    other = build(recipe.architecture, 10)
    training = trainer(fast, other, recipe)
    found = [training.epoch(1), training.epoch(2)]
    predict_batches(other, SPLIT.images, 50)
    saved = io.BytesIO()
    torch.save((other.state_dict(), training.state_dict()), saved)

    torch.manual_seed(5)
    resumed = build(recipe.architecture, 10)
    training = trainer(fast, resumed, recipe)
    state, rest = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    resumed.load_state_dict(state)
    training.load_state_dict(rest)
    found += [training.epoch(3), training.epoch(4)]
    assert found == expected
    for one, two in zip(network.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_dropout_is_part_of_training_in_every_epoch(monkeypatch: pytest.MonkeyPatch):
    recipe = RECIPES["tutorial"].model_copy(update={"epochs": 2})
    active, gradient = [], loop.gradient

    def watch(learner: nn.Module, *rest: object) -> torch.Tensor:
        active.append(learner[3].training)
        return gradient(learner, *rest)

    monkeypatch.setattr(loop, "gradient", watch)
    network = build(recipe.architecture, 10)
    training = trainer(False, network, recipe)
    for epoch in (1, 2):
        training.epoch(epoch)
        assert active == [True] * 3
        active.clear()
        network.eval()


def test_a_convolutional_network_learns_from_distorted_images(monkeypatch: pytest.MonkeyPatch):
    recipe = RECIPES["convolutional"].model_copy(update={"epochs": 2, "shards": 2})
    seen, gradient = [], loop.gradient

    def watch(learner: nn.Module, inputs: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(inputs)
        return gradient(learner, inputs, *rest)

    monkeypatch.setattr(loop, "gradient", watch)
    all_epochs(trainer(False, build(recipe.architecture, 10), recipe), recipe)
    first, second, third, _ = seen
    order = torch.randperm(70, generator=draws(0, 1))[:64]
    for part, (indices, inputs) in enumerate(
        zip(order.tensor_split(2), (first, second), strict=True)
    ):
        distortion = draw(32, recipe, draws(0, 1, 1, part))
        assert torch.equal(inputs, distort(to_input(IMAGES[indices]), distortion))
    assert not torch.equal(first, third)  # anew in each epoch


@pytest.mark.parametrize("images", [40, 70])
def test_a_convolutional_network_never_sees_a_small_last_batch(
    images: int, monkeypatch: pytest.MonkeyPatch
):
    """Of 40 images the only batch is smaller than 64; of 70 six are left out of each epoch."""
    recipe = RECIPES["convolutional"].model_copy(update={"epochs": 1, "shards": 1})
    sizes, gradient = [], loop.gradient

    def watch(learner: nn.Module, inputs: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(inputs))
        return gradient(learner, inputs, *rest)

    monkeypatch.setattr(loop, "gradient", watch)
    split = split_of(IMAGES[:images], LABELS[:images])
    Training(build(recipe.architecture, 10), split, recipe, 0, Group()).epoch(1)
    assert sizes == [min(images, 64)]


def test_the_learning_rate_rises_and_falls():
    recipe = RECIPES["convolutional"].model_copy(update={"learning_rate": 1.0, "warmup": 0.2})
    learner = loop.learner_of(build(recipe.architecture, 10))
    optimizer, schedule = loop.optimizer_of(learner, recipe, steps=100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.15])
    assert max(rates) == rates[19] == 1
    assert rates[-1] == pytest.approx(1 / 80)
    assert rates[19:] == sorted(rates[19:], reverse=True)


def test_only_matrices_and_kernels_decay():
    recipe = RECIPES["convolutional"]
    learner = loop.learner_of(build(recipe.architecture, 10))
    optimizer, _ = loop.optimizer_of(learner, recipe, steps=100)
    decaying, others = optimizer.param_groups
    assert decaying["weight_decay"] == recipe.weight_decay
    assert {weights.ndim for weights in decaying["params"]} == {2, 4}
    assert (others["weight_decay"], {weights.ndim for weights in others["params"]}) == (0.0, {1})
