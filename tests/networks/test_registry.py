import pytest
import torch

from stages.networks.blocks import Blocks
from stages.networks.convolutional import Convolutional
from stages.networks.feed_forward import FeedForward
from stages.networks.registry import build, parse
from stages.networks.torchvision_import import import_torchvision
from stages.networks.torchvision_models import Torchvision
from tests.samples import RECIPES, SHAPE, recipe_of

INPUTS = torch.rand(80, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RECIPES)
def test_a_network_gives_logits_for_any_number_of_images(name: str):
    torch.manual_seed(0)
    network = build(recipe_of(name).network, SHAPE, 10).eval()
    for count in (1, 3):
        assert network(INPUTS[:count]).shape == (count, 10)
    assert network(INPUTS[:3]).min() < 0


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 40)])
def test_a_network_fits_the_shape_of_its_images(name: str, shape: tuple[int, int, int]):
    network = build(recipe_of(name).network, shape, 4).eval()
    assert network(torch.rand(2, *shape)).shape == (2, 4)


def test_shifted_views_are_averaged_in_eval_mode_only():
    torch.manual_seed(0)
    classifier = build(recipe_of("convolutional").network, SHAPE, 10).eval()
    images = INPUTS
    blank = torch.zeros(80, 1, 1, 28)
    up = torch.cat([images[:, :, 1:], blank], dim=2)
    down = torch.cat([blank, images[:, :, :-1]], dim=2)
    left = torch.cat([images[..., 1:], blank.transpose(2, 3)], dim=3)
    right = torch.cat([blank.transpose(2, 3), images[..., :-1]], dim=3)
    with torch.no_grad():
        views = [
            classifier.network(view).log_softmax(dim=1) for view in (images, up, down, left, right)
        ]
        torch.testing.assert_close(classifier(images), torch.stack(views).mean(dim=0))
        classifier.train()
        torch.testing.assert_close(classifier(images), classifier.network(images))


@pytest.mark.parametrize("name", RECIPES)
def test_the_seed_decides_the_weights(name: str):
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network = build(recipe_of(name).network, SHAPE, 10)
        weights.append(torch.nn.utils.parameters_to_vector(network.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_tutorial_has_the_layers_and_parameters_of_its_text():
    network = build(recipe_of("tutorial").network, SHAPE, 10)
    assert [str(layer) for layer in network] == [
        "Flatten(start_dim=1, end_dim=-1)",
        "Linear(in_features=784, out_features=96, bias=True)",
        "Tanh()",
        "Dropout(p=0.2, inplace=False)",
        "Linear(in_features=96, out_features=256, bias=True)",
        "Sigmoid()",
        "Dropout(p=0.2, inplace=False)",
        "Linear(in_features=256, out_features=10, bias=True)",
    ]
    assert sum(weights.numel() for weights in network.parameters()) == 102_762


def test_a_network_that_does_not_fit_is_refused():
    deep = Convolutional(
        kind="convolutional", channels=[4, 4], kernel_sizes=[11, 11], pool_sizes=[2, 2]
    )
    with pytest.raises(
        ValueError, match=r"^kernel_sizes: \[11, 11\] .* leave nothing of .* 28 x 28"
    ):
        build(deep, SHAPE, 10)
    wide = FeedForward(
        kind="feed_forward", hidden_sizes=[10**6, 10**6], activations=["relu"] * 2, dropout=0.0
    )
    with pytest.raises(
        ValueError, match=r"^1,000,796,[\d,]+ weights are not allowed: use 1 to 268,435,456"
    ):
        build(wide, SHAPE, 10)
    deep = Blocks(kind="blocks", stem=4, channels=[4] * 5, mirrored_view=False)
    with pytest.raises(ValueError, match=r"^channels: 5 blocks leave nothing of images of 28 x 28"):
        build(deep, SHAPE, 10)


def test_mirrored_views_are_averaged_in_eval_mode_only():
    torch.manual_seed(0)
    config = Blocks(kind="blocks", stem=4, channels=[8, 8], mirrored_view=True)
    classifier = build(config, SHAPE, 10).eval()
    with torch.no_grad():
        views = [classifier.network(view) for view in (INPUTS, INPUTS.flip(-1))]
        torch.testing.assert_close(classifier(INPUTS), (views[0] + views[1]) / 2)
        torch.testing.assert_close(classifier(INPUTS), classifier(INPUTS.flip(-1)))
        classifier.train()
        torch.testing.assert_close(classifier(INPUTS), classifier.network(INPUTS))


@pytest.mark.parametrize("small_input", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_torchvisions_networks_take_images_in_0_to_1(name: str, small_input: bool):
    """With its weights and ImageNet's normalisation, it is torchvision's network."""
    config = Torchvision(kind="torchvision", name=name, small_input=small_input)
    original = getattr(import_torchvision().models, name)(num_classes=7).eval()
    network = build(config, (3, 64, 64), 7).eval()
    state = original.state_dict()
    if small_input:  # ResNet's first kernels are smaller
        [first] = [key for key in state if state[key].ndim == 4][:1]
        state[first] = network[1].state_dict()[first]
    network[1].load_state_dict(state)
    images = torch.rand(2, 3, 64, 64)
    normalise = import_torchvision().transforms.Normalize(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    with torch.no_grad():
        logits, expected = network(images), original(normalise(images))
    if not small_input:
        torch.testing.assert_close(logits, expected, atol=0, rtol=1e-3)
    sizes = [
        next(layer for layer in of.modules() if isinstance(layer, torch.nn.Conv2d))(images).shape[2]
        for of in (original, network)
    ]
    assert sizes == [32, 64 if small_input else 32]


def test_a_network_of_torchvision_that_is_not_offered_is_refused():
    with pytest.raises(ValueError, match=r"Input should be 'resnet18', .* or 'efficientnet_b0'"):
        parse({"kind": "torchvision", "name": "vgg16"})
