"""The convolutional training on threads is the plain loop's, each batch divided."""

import copy

import pytest
import torch

from stages.common.errors import UserError
from stages.common.params import ConvolutionalRecipe, load_params
from stages.common.splits import Split
from stages.network.networks import build
from stages.training import loop, parallel
from stages.training.distortion import draw
from stages.training.loop import Batch
from tests.project import ROOT
from tests.samples import split_of

STILL = {"rotation": 0.0, "scaling": 0.0, "shear": 0.0, "shift": 0.0, "bend": 0.0}
SMALL = {"channels": [4, 8], "kernel_sizes": [5, 3], "pool_sizes": [2, 2], "batch_size": 16}


def recipe(**changes: object) -> ConvolutionalRecipe:
    ours = load_params(ROOT / "params.yaml").recipes["convolutional"].model_dump()
    return ConvolutionalRecipe(**ours | SMALL | changes)


@pytest.fixture(scope="module")
def digits() -> Split:
    """Ten shapes, each in a place of its own, eight times, and five of them a ninth time."""
    images = torch.zeros(85, 28, 28, dtype=torch.uint8)
    labels = torch.arange(85) % 10
    for image, label in zip(images, labels, strict=True):
        image[2 + 2 * label : 6 + 2 * label, 4:24] = 255
    return split_of(images, labels)


def trained(train, digits: Split, seed: int = 0, **changes: object):
    """Return the state and the results of a training from the same start."""
    params = recipe(**changes)
    torch.manual_seed(seed)
    network = build(params.architecture, 10)
    results = list(train(network, digits, params, seed))
    assert all(0 <= result.accuracy <= 1 for result in results)
    return network.state_dict(), results


def test_training_learns_the_images(digits: Split):
    _, results = trained(parallel.train, digits, epochs=10, **STILL)
    assert len(results) == 10
    assert results[0].loss > 1.5
    assert results[-1].loss < 0.2
    assert results[-1].accuracy > 0.9


def test_one_thread_gives_the_very_weights_of_the_plain_loop(digits: Split):
    ours, results = trained(parallel.train, digits, epochs=2, threads=1)
    plain, expected = trained(loop.train, digits, epochs=2, threads=1)
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    assert results == expected


@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_seed_gives_the_same_network(digits: Split, threads: int):
    once, again, other = (
        trained(parallel.train, digits, seed, epochs=1, threads=threads)[0] for seed in (0, 0, 1)
    )
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["network.0.weight"], other["network.0.weight"])


@pytest.mark.parametrize("threads", [2, 3])
def test_a_training_is_the_plain_loops_where_every_part_has_the_same_statistics(threads: int):
    """All images are the same, so batch normalisation finds the same in a part as in the batch."""
    image = torch.randint(
        0, 256, (28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    same = split_of(image.expand(32, 28, 28).contiguous(), torch.arange(32) % 3)
    params = recipe(epochs=3, threads=threads, learning_rate=1e-3, **STILL)
    torch.manual_seed(0)
    network = build(params.architecture, 10).eval()
    plain = copy.deepcopy(network)
    results = list(parallel.train(network, same, params, seed=0))
    for result, expected in zip(results, loop.train(plain, same, params, seed=0), strict=True):
        assert result == pytest.approx(expected, rel=1e-3)
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_too_many_threads_for_the_images_are_one_line(digits: Split):
    few = split_of(digits.images[:5], digits.labels[:5])
    params = recipe(threads=3)
    with pytest.raises(UserError, match=r"^params\.yaml: threads: 3 is too many for batches of 5 "):
        next(parallel.train(build(params.architecture, 10), few, params, seed=0))


def test_threads_share_the_work_of_a_batch(digits: Split):
    """Without batch normalisation's statistics of the part, the gradient is the whole batch's."""
    images, labels = digits.take(torch.arange(13))
    noise = torch.Generator().manual_seed(0)
    batch = Batch(images, labels, draw(13, recipe(bend=1.0), noise))
    learner = loop.learner_of(build(recipe().architecture, 10)).eval()
    whole_shares = loop.gradient(learner, batch, 13)
    whole = [weights.grad.clone() for weights in learner.parameters()]

    replicas = [learner, parallel.replica_of(learner).eval()]
    parts = parallel.divide(batch, 2)
    assert [len(part.labels) for part in parts] == [7, 6]
    shares = [loop.gradient(*pair, 13) for pair in zip(replicas, parts, strict=True)]
    parallel.merge_gradients(replicas)
    torch.testing.assert_close(sum(shares), whole_shares)
    for expected, one, other in zip(whole, *(r.parameters() for r in replicas), strict=True):
        torch.testing.assert_close(one.grad, expected)
        assert one.data_ptr() == other.data_ptr()
