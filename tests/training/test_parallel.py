"""Who computes a part does not show in the result: threads here, processes in test_processes.py."""

import copy

import pytest
import torch

from stages.common.errors import UserError
from stages.common.params import ConvolutionalRecipe, FeedForwardRecipe, Recipe, load_params
from stages.common.splits import Split
from stages.network.networks import build
from stages.network.pixels import to_input
from stages.training import loop, parallel
from stages.training.loop import Part, Training
from stages.training.parallel import Group
from tests.project import ROOT
from tests.samples import split_of

STILL = {"rotation": 0.0, "scaling": 0.0, "shear": 0.0, "shift": 0.0, "bend": 0.0}
SMALL = {"channels": [4, 8], "kernel_sizes": [5, 3], "pool_sizes": [2, 2], "batch_size": 16}
RECIPES = load_params(ROOT / "params.yaml").recipes


def recipe(**changes: object) -> ConvolutionalRecipe:
    return ConvolutionalRecipe(**RECIPES["convolutional"].model_dump() | SMALL | changes)


@pytest.fixture(scope="module")
def digits() -> Split:
    """Ten shapes, each in a place of its own, eight times, and five of them a ninth time."""
    images = torch.zeros(85, 28, 28, dtype=torch.uint8)
    labels = torch.arange(85) % 10
    for image, label in zip(images, labels, strict=True):
        image[2 + 2 * label : 6 + 2 * label, 4:24] = 255
    return split_of(images, labels)


def trained(digits: Split, params: Recipe, threads: int, seed: int = 0):
    """Return the state and the results of a training from the same start."""
    torch.manual_seed(seed)
    network = build(params.architecture, 10)
    training = Training(network, digits, params, seed, Group(threads))
    results = [training.epoch(epoch) for epoch in range(1, params.epochs + 1)]
    assert all(0 <= result.accuracy <= 1 for result in results)
    return network.state_dict(), results


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_training_learns_the_images(digits: Split, shards: int):
    _, results = trained(digits, recipe(epochs=10, shards=shards, **STILL), threads=2)
    assert results[0].loss > 1.5
    assert results[-1].loss < 0.3
    assert results[-1].accuracy > 0.9


@pytest.mark.parametrize("shards", [2, 3, 4])
def test_any_number_of_threads_gives_the_same_network(digits: Split, shards: int):
    params = recipe(epochs=2, shards=shards, bend=1.0)
    expected, results = trained(digits, params, threads=1)
    for threads in (2, 3, 5):
        state, found = trained(digits, params, threads)
        assert same(expected, state)
        assert found == results
    assert not same(expected, trained(digits, params, 1, seed=1)[0])


def test_the_number_of_shards_is_part_of_the_recipe(digits: Split):
    two, four = (trained(digits, recipe(epochs=1, shards=n), threads=1)[0] for n in (2, 4))
    assert not same(two, four)


def test_a_feed_forward_network_may_have_shards_too(digits: Split):
    """Its last batch of 5 has fewer images than parts."""
    changes = {"epochs": 12, "batch_size": 20, "shards": 8, "learning_rate": 1e-2}
    params = FeedForwardRecipe(**RECIPES["tutorial"].model_dump() | changes)
    state, results = trained(digits, params, threads=1)
    assert results[-1].accuracy > 0.9
    assert same(state, trained(digits, params, threads=1)[0])


@pytest.mark.parametrize("shards", [2, 3])
def test_a_training_is_the_uncut_one_where_every_part_has_the_same_statistics(shards: int):
    """All images are the same, so batch normalisation finds the same in a part as in the batch."""
    image = torch.randint(
        0, 256, (28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images = split_of(image.expand(32, 28, 28).contiguous(), torch.arange(32) % 3)
    params = recipe(epochs=3, shards=shards, learning_rate=1e-3, **STILL)
    cut, results = trained(images, params, threads=2)
    whole, expected = trained(images, recipe(**params.model_dump() | {"shards": 1}), threads=1)
    for result, one in zip(results, expected, strict=True):
        assert result == pytest.approx(one, rel=1e-3)
    for name, values in cut.items():
        if "running" not in name:  # which are unbiased, and so depend on the number of images
            torch.testing.assert_close(values, whole[name], atol=1e-3, rtol=5e-3)


def test_too_many_shards_for_the_images_are_one_line(digits: Split):
    few = split_of(digits.images[:5], digits.labels[:5])
    params = recipe(shards=3)
    with pytest.raises(UserError, match=r"^params\.yaml: shards: 3 is too many for batches of 5 "):
        Training(build(params.architecture, 10), few, params, 0, Group())


def test_parts_share_the_work_of_a_batch(digits: Split):
    """Without batch normalisation's statistics of the part, the gradient is the whole batch's."""
    images, labels = digits.take(torch.arange(13))
    learner = loop.learner_of(build(recipe().architecture, 10)).eval()
    reference = copy.deepcopy(learner)
    whole_sums = loop.gradient(reference, to_input(images), labels, 13)
    parts = [Part(learner) for _ in range(2)]
    for part, some, names in zip(
        parts, images.tensor_split(2), labels.tensor_split(2), strict=True
    ):
        part.learner.eval()
        part.sums = loop.gradient(part.learner, to_input(some), names, 13)
    torch.testing.assert_close(parts[0].sums + parts[1].sums, whole_sums)
    loop.place_gradients(learner, parts[0].gradient + parts[1].gradient)
    for weights, other in zip(learner.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weights.grad, other.grad)
        assert weights.grad.stride() == weights.stride()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_rows_are_gathered_in_their_order(threads: int):
    def compute(number: int, row: torch.Tensor) -> None:
        row.fill_(number)

    rows = Group(threads).gather(compute, 5, torch.zeros(2))
    assert rows.tolist() == [[number, number] for number in range(5)]


def place(rank: int, **changes: object) -> dict:
    usual = {"host": f"10.9.0.{rank + 1}", "local_rank": 0, "worker": True, "launched": True}
    return usual | {"facts": {"code": "a", "seed": "0"}} | changes


def test_the_main_process_is_on_the_host_of_the_stage_whatever_its_rank():
    assert parallel.find_main([place(0), place(1, worker=False), place(2)]) == 1
    with pytest.raises(UserError, match=r"^every host runs `make worker`"):
        parallel.find_main([place(0), place(1)])
    with pytest.raises(UserError, match=r"^10\.9\.0\.1 and 10\.9\.0\.3 both run the stage"):
        parallel.find_main([place(0, worker=False), place(1), place(2, worker=False)])
    by_torchrun = [place(rank, worker=False, launched=False) for rank in range(2)]
    assert parallel.find_main(by_torchrun) == 0


def test_what_differs_is_named():
    parallel.compare([place(0), place(1)], main=0)
    other = place(1, facts={"code": "b", "seed": "0", "more": "1"})
    with pytest.raises(UserError, match=r"^10\.9\.0\.1 and 10\.9\.0\.2 .* differ in code, more; "):
        parallel.compare([place(0), other], main=0)


def test_another_recipe_is_named_before_what_it_brings_with_it():
    ours = {"params.yaml: recipes.fast.epochs": "2", "params.yaml: train.recipe": "'fast'"}
    theirs = {
        "params.yaml: recipes.tutorial.epochs": "10",
        "params.yaml: train.recipe": "'tutorial'",
    }
    with pytest.raises(UserError, match=r"they differ in params\.yaml: train\.recipe, "):
        parallel.compare([place(0, facts=ours), place(1, facts=theirs)], main=0)
