"""The plain loop, held to one written out once more with nothing but torch."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

from stages.common.params import FeedForwardRecipe, load_params
from stages.network.inference import predict_batches
from stages.network.networks import build
from stages.network.pixels import to_input
from stages.training import feed_forward, loop, parallel
from stages.training.distortion import distort, draw
from tests.project import ROOT
from tests.samples import random_images, split_of

IMAGES = random_images(70)
LABELS = torch.arange(70) % 10
SPLIT = split_of(IMAGES, LABELS)
RECIPES = load_params(ROOT / "params.yaml").recipes


def test_an_epoch_sees_every_image_once_in_batches():
    recipe = FeedForwardRecipe(**RECIPES["tutorial"].model_dump() | {"dropout": 0.0, "epochs": 3})
    torch.manual_seed(0)
    network = build(recipe.architecture, 10)
    results = list(loop.train(network, SPLIT, recipe, seed=0))

    torch.manual_seed(0)
    reference = build(recipe.architecture, 10)
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    shuffle = torch.Generator().manual_seed(0)
    for result in results:
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
    results = list(
        loop.train(build(recipe.architecture, 10), split_of(images, LABELS), recipe, seed=0)
    )
    assert len(results) == 12
    assert results[0].loss > 0.5
    assert results[-1].loss < 0.2
    assert results[-1].accuracy > 0.9


@pytest.mark.parametrize("train", [loop.train, feed_forward.train, parallel.train])
def test_what_is_done_between_epochs_does_not_change_the_training(train: Callable):
    """The validation switches dropout and batch normalisation off, and uses no random numbers."""
    recipe = RECIPES["tutorial" if train is feed_forward.train else "convolutional"]
    recipe = recipe.model_copy(update={"epochs": 3, "batch_size": 14})
    trained = []
    for validated in (True, False):
        torch.manual_seed(0)
        network = build(recipe.architecture, 10)
        for _ in train(network, SPLIT, recipe, seed=0):
            if validated:
                predict_batches(network, SPLIT.images, 50)
        trained.append(network.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[1])


def test_dropout_is_part_of_training_in_every_epoch():
    recipe = RECIPES["tutorial"].model_copy(update={"epochs": 2})
    network, active = build(recipe.architecture, 10), []
    network[3].register_forward_hook(lambda layer, inputs, output: active.append(layer.training))
    for _ in loop.train(network, SPLIT, recipe, seed=0):
        assert active == [True] * 3
        active.clear()
        network.eval()


def test_a_convolutional_network_learns_from_distorted_images():
    recipe = RECIPES["convolutional"]
    torch.manual_seed(0)
    learner = loop.learner_of(build(recipe.architecture, 10))
    distortion = draw(70, recipe, torch.Generator().manual_seed(0))
    batch = loop.Batch(IMAGES, LABELS, distortion)
    loss, accuracy = loop.gradient(learner, batch, 70)
    gradients = [weights.grad.clone() for weights in learner.parameters()]
    learner.zero_grad()
    logits = learner(distort(to_input(IMAGES), distortion))
    expected = cross_entropy(logits, LABELS)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    assert accuracy == (logits.argmax(dim=1) == LABELS).float().mean()
    for gradient, weights in zip(gradients, learner.parameters(), strict=True):
        torch.testing.assert_close(gradient, weights.grad)


def test_images_are_distorted_anew_in_each_epoch():
    recipe = RECIPES["convolutional"].model_copy(update={"epochs": 2})
    maps = []

    def gradient(learner: torch.nn.Module, batch: loop.Batch, size: int) -> torch.Tensor:
        maps.append(batch.distortion.maps)
        return loop.gradient(learner, batch, size)

    list(loop.train(build(recipe.architecture, 10), SPLIT, recipe, 0, gradient))
    assert len(maps) == 2
    assert not torch.equal(*maps)


@pytest.mark.parametrize("images", [40, 70])
def test_a_convolutional_network_never_sees_a_small_last_batch(images: int):
    """Of 40 images the only batch is smaller than 64; of 70 six are left out of each epoch."""
    recipe = RECIPES["convolutional"].model_copy(update={"epochs": 1})
    sizes = []

    def gradient(learner: torch.nn.Module, batch: loop.Batch, size: int) -> torch.Tensor:
        sizes.append(len(batch.labels))
        return loop.gradient(learner, batch, size)

    split = split_of(IMAGES[:images], LABELS[:images])
    list(loop.train(build(recipe.architecture, 10), split, recipe, 0, gradient))
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
