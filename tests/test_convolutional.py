from common import convolutional
from common.arrays import Split
from common.convolutional import distort, draw_bends, draw_maps
from common.networks import build, to_input
from common.params import ConvolutionalParams, load_params

import pytest
import torch
from conftest import ROOT, split_of

CPU = torch.device("cpu")
STILL = {"rotation": 0.0, "scaling": 0.0, "shear": 0.0, "shift": 0.0, "bend": 0.0}
SMALL = {"channels": [4, 8], "kernel_sizes": [5, 3], "pool_sizes": [2, 2], "batch_size": 16}


def recipe(**changes: object) -> ConvolutionalParams:
    ours = load_params(ROOT / "params.yaml").convolutional.model_dump()
    return ConvolutionalParams(**ours | SMALL | changes)


@pytest.fixture(scope="module")
def digits() -> Split:
    """Ten shapes, each in a place of its own, eight times."""
    images = torch.zeros(80, 28, 28, dtype=torch.uint8)
    labels = torch.arange(80) % 10
    for image, label in zip(images, labels, strict=True):
        image[2 + 2 * label : 6 + 2 * label, 4:24] = 255
    return split_of(images, labels)


def trained(digits: Split, **changes: object) -> tuple[dict[str, torch.Tensor], list[float]]:
    params = recipe(**changes)
    torch.manual_seed(params.seed)
    network = build(params.description)
    means = list(convolutional.train(network, digits, params, CPU))
    assert all(0 <= accuracy <= 1 for _, accuracy in means)
    return network.state_dict(), [loss for loss, _ in means]


def test_training_learns_the_images(digits: Split):
    _, losses = trained(digits, epochs=10, **STILL)
    assert len(losses) == 10
    assert losses[0] > 1.5
    assert losses[-1] < 0.2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_seed_gives_the_same_network(digits: Split, threads: int):
    once, again, other = (
        trained(digits, epochs=1, threads=threads, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["network.0.weight"], other["network.0.weight"])


def test_threads_share_the_work_of_a_batch(digits: Split):
    """Without batch normalisation's statistics of the part, the gradient is the whole batch's."""
    images, labels = digits.take(torch.arange(12))
    params = recipe(**STILL)
    noise = torch.Generator().manual_seed(0)
    maps, bends = draw_maps(12, params, noise), draw_bends(12, params, noise)
    network = build(params.description).network.eval()
    replica = convolutional.replica_of(network)
    convolutional.backward(12, network, (images, maps, bends, labels))
    whole = [weights.grad.clone() for weights in network.parameters()]
    for part, (first, end) in zip((network, replica), ((0, 5), (5, 12)), strict=True):
        cut = slice(first, end)
        convolutional.backward(12, part, (images[cut], maps[cut], bends[cut], labels[cut]))
    convolutional.merge_gradients([network, replica])
    for expected, one, other in zip(whole, network.parameters(), replica.parameters(), strict=True):
        torch.testing.assert_close(one.grad, expected)
        assert one.data_ptr() == other.data_ptr()


def test_no_distortion_leaves_the_images(digits: Split):
    images = to_input(next(digits.batches(80)))
    params, noise = recipe(**STILL), torch.Generator().manual_seed(0)
    still = distort(images, draw_maps(80, params, noise), draw_bends(80, params, noise))
    torch.testing.assert_close(still, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "change", [{"rotation": 20.0}, {"scaling": 0.2}, {"shear": 0.3}, {"shift": 3.0}, {"bend": 1.0}]
)
def test_every_distortion_moves_the_ink_and_keeps_it(digits: Split, change: dict):
    images = to_input(next(digits.batches(80)))
    params, noise = recipe(**STILL | change), torch.Generator().manual_seed(0)
    moved = distort(images, draw_maps(80, params, noise), draw_bends(80, params, noise))
    assert moved.shape == images.shape
    assert (moved - images).abs().mean() > 0.005
    assert moved.sum().item() == pytest.approx(images.sum().item(), rel=0.1)
    assert not torch.equal(moved[0], moved[10])  # two images of one shape, moved differently


def test_a_shift_is_so_many_pixels(digits: Split):
    """The largest move of ink is the parameter, in pixels."""
    params = recipe(**STILL | {"shift": 2.0})
    maps = draw_maps(1000, params, torch.Generator().manual_seed(0))
    shifts = maps[:, :, 2] * 28 / 2
    assert 1.9 < shifts.abs().max() <= 2
    assert abs(shifts.mean().item()) < 0.1


def test_five_looks_are_averaged(digits: Split):
    classifier = build(recipe().description).eval()
    images = to_input(next(digits.batches(80)))
    blank = torch.zeros(80, 1, 1, 28)
    up = torch.cat([images[:, :, 1:], blank], dim=2)
    down = torch.cat([blank, images[:, :, :-1]], dim=2)
    left = torch.cat([images[..., 1:], blank.transpose(2, 3)], dim=3)
    right = torch.cat([blank.transpose(2, 3), images[..., :-1]], dim=3)
    with torch.no_grad():
        looks = [
            classifier.network(look).log_softmax(dim=1) for look in (images, up, down, left, right)
        ]
        torch.testing.assert_close(classifier(images), torch.stack(looks).mean(dim=0))


def test_the_recipes_networks_stay_under_a_million_parameters():
    params = load_params(ROOT / "params.yaml")
    for name in ("convolutional", "thorough"):
        network = build(getattr(params, name).description)
        assert sum(weights.numel() for weights in network.parameters()) < 1_000_000
