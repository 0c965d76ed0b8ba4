"""The loop, held to one written out once more with nothing but torch, for any part of a recipe."""

import copy
import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from stages.networks.inference import mean_loss, predict_batches
from stages.networks.pixels import to_input
from stages.networks.registry import build
from stages.runtime.splits import Split
from stages.training import fast_mlp
from stages.training.fast_mlp import FastMLP
from stages.training.loop import Loop
from stages.training.parallel import Group
from stages.training.randomness import UnseededError, make_generator, no_global_generators
from stages.training.recipe import Recipe
from tests.samples import OURS, RECIPES, SHAPE, random_images, recipe_of, split_of
from tests.training.networks import RandomNetwork

IMAGES = random_images(70)
LABELS = torch.arange(70) % 10
SPLIT = split_of(IMAGES, LABELS)
SMALL = {
    "network.channels": [4, 8],
    "network.kernel_sizes": [5, 3],
    "network.pool_sizes": [2, 2],
    "batch_size": 16,
    "drop_last": False,
}
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def shapes() -> Split:
    """Ten shapes, each in a place of its own, eight times, and five of them a ninth time."""
    images = torch.zeros(85, 1, 28, 28, dtype=torch.uint8)
    labels = torch.arange(85) % 10
    for image, label in zip(images, labels, strict=True):
        image[0, 2 + 2 * label : 6 + 2 * label, 4:24] = 255
    return split_of(images, labels)


def network_of(recipe: Recipe, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = build(recipe.network, SHAPE, 10)
    return network.to(memory_format=torch.channels_last)


def trained(
    split: Split, recipe: Recipe, threads: int = 1, network: nn.Module | None = None
) -> tuple[State, list[dict[str, float]]]:
    """Return the state of a network after a training, and each epoch's results."""
    network = network or network_of(recipe)
    loop = Loop(network, split, recipe, 0, Group(threads))
    results = [loop.epoch(epoch) for epoch in range(1, recipe.epochs + 1)]
    return network.state_dict(), results


def same(first: State, second: State) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def random_network() -> nn.Module:
    torch.manual_seed(0)
    return RandomNetwork()


def test_an_epoch_trains_on_every_image_once_in_batches(unclipped: None):
    recipe = recipe_of("tutorial", **{"network.dropout": 0.0}, epochs=3)
    network = network_of(recipe)
    reference = copy.deepcopy(network)
    loop = Loop(network, SPLIT, recipe, 0, Group())
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    for epoch in range(1, 4):
        order = torch.randperm(70, generator=make_generator(0, epoch))
        total, hits = 0.0, 0
        for batch in order.split(32):
            logits = reference(IMAGES[batch].unsqueeze(1) / 255)
            loss = cross_entropy(logits, LABELS[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            hits += (logits.argmax(dim=1) == LABELS[batch]).sum().item()
        results = loop.epoch(epoch)
        assert results["loss"] == pytest.approx(total / 70, rel=1e-5)
        assert results["accuracy"] == pytest.approx(hits / 70, rel=1e-5)
    for weights, expected in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize(
    ("name", "shards"),
    [*((name, 2) for name in RECIPES), *((name, 4) for name in ("tutorial", "convolutional"))],
)
def test_training_learns_the_images(shapes: Split, name: str, shards: int):
    """Those of our recipes fast; any other recipe better than guessing, in eval mode."""
    recipe = recipe_of(name, epochs=15, batch_size=20, shards=shards, augmentation=[])
    network = network_of(recipe)
    _, results = trained(shapes, recipe, 2, network)
    loss = mean_loss(predict_batches(network, shapes.images, 85), shapes.labels)
    assert loss < math.log(10)
    if name in OURS:
        assert results[0]["loss"] > 0.5
        assert results[-1]["loss"] < 0.7  # photo's cannot be below 0.5, by its label smoothing
        assert results[-1]["accuracy"] > 0.9


@pytest.mark.parametrize("shards", [2, 3, 4])
@pytest.mark.parametrize("make", [None, random_network], ids=["convolutional", "random"])
def test_any_number_of_threads_gives_the_same_network(
    shapes: Split, shards: int, make: Callable[[], nn.Module] | None
):
    """Whatever its layers draw, and however often they are computed at the same time."""
    elastic = {"kind": "elastic", "displacement": 1.0}
    augmentation = [*recipe_of("convolutional").model_dump()["augmentation"], elastic]
    recipe = recipe_of("convolutional", **SMALL, epochs=2, shards=shards, augmentation=augmentation)
    network = make and make()
    expected, results = trained(shapes, recipe, 1, network and copy.deepcopy(network))
    for threads in (1, 2, 3, 5):
        state, repeated = trained(shapes, recipe, threads, network and copy.deepcopy(network))
        assert same(expected, state)
        assert repeated == results


class LateDropout(nn.Sequential):
    """It draws random numbers in its third forward pass, but not in the rehearsal."""

    passes = 0

    def forward(self, images: Tensor) -> Tensor:
        LateDropout.passes += 1
        return super().forward(dropout(images) if LateDropout.passes > 3 else images)


def test_random_numbers_that_the_rehearsal_does_not_draw_are_refused(shapes: Split):
    recipe = recipe_of("convolutional", **SMALL, epochs=1, shards=1, augmentation=[])
    loop = Loop(LateDropout(nn.Flatten(), nn.Linear(784, 10)), shapes, recipe, 0, Group())
    with (
        pytest.raises(UnseededError, match=r"^torch's default generator drew"),
        no_global_generators(torch.device("cpu")),
    ):
        loop.epoch(1)


def test_the_number_of_shards_is_part_of_the_recipe(shapes: Split):
    two, four = (
        trained(shapes, recipe_of("convolutional", **SMALL, epochs=1, shards=shards))[0]
        for shards in (2, 4)
    )
    assert not same(two, four)


def test_the_last_batch_may_have_fewer_images_than_shards(shapes: Split):
    changes = {"optimizer.learning_rate": 1e-2, "epochs": 12, "batch_size": 20, "shards": 8}
    _, results = trained(shapes, recipe_of("tutorial", **changes))
    assert results[-1]["accuracy"] > 0.9


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_with_the_same_statistics_train_as_the_whole_batch(shards: int):
    """All images are the same, so batch normalisation sees the same in a shard as in the batch."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8, generator=generator)
    split = split_of(image.expand(36, 1, 28, 28).contiguous(), torch.arange(36) % 3)
    changes = SMALL | {"epochs": 3, "batch_size": 12, "augmentation": []}
    changes |= {"optimizer.learning_rate": 1e-3}
    cut, results = trained(split, recipe_of("convolutional", **changes, shards=shards), threads=2)
    whole, expected = trained(split, recipe_of("convolutional", **changes, shards=1))
    for result, of_whole in zip(results, expected, strict=True):
        assert result == pytest.approx(of_whole, rel=1e-3)
    for name, values in cut.items():
        if "running" not in name:  # unbiased, so they depend on the number of images
            torch.testing.assert_close(values, whole[name], atol=1e-3, rtol=5e-3)


def test_buffers_are_averaged_over_shards_if_training_changes_them(shapes: Split):
    recipe = recipe_of("convolutional", **SMALL, epochs=1, shards=3, augmentation=[])
    state, _ = trained(shapes, recipe, network=random_network())
    assert state["scale"] == torch.tensor(1 / 3)
    assert state["seen"] == state["normalisation.num_batches_tracked"] == 6
    mean, order = 0.0, torch.randperm(85, generator=make_generator(0, 1))
    for batch in order.split(16):
        means = [to_input(shapes.images[shard]).mean() for shard in batch.tensor_split(3)]
        mean = sum(mean + 0.25 * (of_shard - mean) for of_shard in means) / 3
    assert state["mean"].item() == pytest.approx(mean.item(), rel=1e-5)


class Buffers(nn.Module):
    """Its buffers change in ways that a first forward pass does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.linear = nn.Linear(784, 4), nn.Linear(4, 10)
        self.normalisation = nn.BatchNorm1d(4)
        for weights in (self.linear.weight, self.linear.bias):
            nn.init.zeros_(weights)
        self.after = nn.BatchNorm1d(10)  # its first inputs are 0, and so is their mean
        self.frozen.requires_grad_(False)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("late", torch.tensor(0.0))
        self.register_buffer("constant", torch.tensor(2**24 + 1))
        self.register_buffer("started", torch.tensor([False, True]))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.steps = self.steps + 1  # a new tensor, as PyTorch allows
            self.late += self.steps > 2
            self.started[0] = True
        return self.after(self.linear(self.normalisation(self.frozen(images.flatten(1)))))


def test_buffers_change_as_without_shards_and_frozen_weights_stay(shapes: Split):
    changes = SMALL | {"drop_last": True, "epochs": 2, "shards": 3, "augmentation": []}
    recipe = recipe_of("convolutional", **changes)
    network = Buffers()
    before = copy.deepcopy(network.state_dict())
    state, _ = trained(shapes, recipe, 2, network)
    assert state["steps"] == 10
    assert state["late"] == 8
    assert state["constant"] == 2**24 + 1
    assert state["started"].tolist() == [True, True]
    assert state["after.running_mean"].abs().min() > 0
    assert torch.equal(state["frozen.weight"], before["frozen.weight"])
    assert not torch.equal(state["linear.weight"], before["linear.weight"])


@pytest.mark.parametrize(("images", "sizes"), [(40, [40]), (70, [64]), (128, [64, 64])])
def test_drop_last_leaves_out_an_incomplete_batch(
    images: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
):
    recipe = recipe_of("convolutional", epochs=1, shards=1)
    split = split_of(random_images(images), torch.arange(images) % 10)
    loop, seen, step = Loop(network_of(recipe), split, recipe, 0, Group()), [], Loop.step

    def watch(self: Loop, indices: Tensor, *place: int) -> Tensor:
        seen.append(len(indices))
        return step(self, indices, *place)

    monkeypatch.setattr(Loop, "step", watch)
    loop.epoch(1)
    assert seen == sizes


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_resumes_as_if_it_had_not_been_interrupted(name: str):
    """A validation between epochs changes nothing either."""
    recipe = recipe_of(name, epochs=4, batch_size=14)
    network = network_of(recipe)
    kind = FastMLP if fast_mlp.fits(network, recipe, torch.device("cpu")) else Loop

    trainer = kind(network, SPLIT, recipe, 0, Group())
    expected = [trainer.epoch(epoch) for epoch in range(1, 5)]

    interrupted = network_of(recipe)
    trainer = kind(interrupted, SPLIT, recipe, 0, Group())
    results = [trainer.epoch(1), trainer.epoch(2)]
    predict_batches(interrupted, SPLIT.images, 50)
    saved = io.BytesIO()
    torch.save((interrupted.state_dict(), trainer.state_dict()), saved)

    resumed = network_of(recipe, seed=5)
    trainer = kind(resumed, SPLIT, recipe, 0, Group())
    state, rest = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    resumed.load_state_dict(state)
    trainer.load_state_dict(rest)
    results += [trainer.epoch(3), trainer.epoch(4)]
    assert results == expected
    assert same(network.state_dict(), resumed.state_dict())


def test_each_shard_is_augmented_in_each_epoch_with_its_generator():
    recipe = recipe_of("convolutional", epochs=2, shards=2)
    network, seen = network_of(recipe), []
    loop = Loop(network, SPLIT, recipe, 0, Group())
    for replica in loop.replicas:
        replica.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    loop.epoch(1)
    loop.epoch(2)
    order = torch.randperm(70, generator=make_generator(0, 1))[:64]
    [affine] = recipe.augmentation
    for shard, indices in enumerate(order.tensor_split(2)):
        expected = affine(to_input(IMAGES[indices]), make_generator(0, 1, 1, shard))
        assert torch.equal(seen[shard], expected)
    assert len(seen) == 4
    assert not torch.equal(seen[0], seen[2])


class Unseeded(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.native_dropout(images, 0.5, self.training)[0])


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (Unseeded(nn.Flatten(), nn.Linear(784, 10)), r"aten\.native_dropout\S* draws random"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10)),
            "Expected more than 1",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 10)), "mat1 and mat2|shapes|size"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 5)), r"returns \[1, 5\], not \[1, 10\]"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_before_training(network: nn.Module, line: str):
    """Of 70 images the last batch has 6, and so the last shard 1."""
    recipe = recipe_of("convolutional", drop_last=False, batch_size=32, shards=4)
    with pytest.raises(ValueError, match=rf"^a shard of 1 images cannot be trained on: .*({line})"):
        Loop(network, SPLIT, recipe, 0, Group())
