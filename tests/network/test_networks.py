import pytest
import torch

from stages.common.params import load_params
from stages.network.networks import build
from tests.project import ROOT

RECIPES = load_params(ROOT / "params.yaml").recipes
INPUTS = torch.rand(80, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RECIPES)
def test_a_network_gives_logits_for_any_number_of_images(name: str):
    torch.manual_seed(0)
    network = build(RECIPES[name].architecture, 10).eval()
    for count in (1, 3):
        assert network(INPUTS[:count]).shape == (count, 10)
    assert network(INPUTS[:3]).min() < 0


def test_five_looks_are_averaged():
    torch.manual_seed(0)
    classifier = build(RECIPES["convolutional"].architecture, 10).eval()
    images = INPUTS
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


@pytest.mark.parametrize("name", RECIPES)
def test_weights_are_drawn_from_the_global_generator(name: str):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(
            torch.nn.utils.parameters_to_vector(build(RECIPES[name].architecture, 10).parameters())
        )
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_tutorials_network_has_the_tutorials_layers():
    layers = [str(layer) for layer in build(RECIPES["tutorial"].architecture, 10)]
    assert layers == [
        "Flatten(start_dim=1, end_dim=-1)",
        "Linear(in_features=784, out_features=96, bias=True)",
        "Tanh()",
        "Dropout(p=0.2, inplace=False)",
        "Linear(in_features=96, out_features=256, bias=True)",
        "Sigmoid()",
        "Dropout(p=0.2, inplace=False)",
        "Linear(in_features=256, out_features=10, bias=True)",
    ]


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="no network 'recurrent'"):
        build({"network": "recurrent"}, 10)


def test_the_recipes_networks_stay_under_a_million_parameters():
    for name in ("convolutional", "thorough"):
        network = build(RECIPES[name].architecture, 10)
        assert sum(weights.numel() for weights in network.parameters()) < 1_000_000
