import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from stages.networks.torchvision_import import import_torchvision
from stages.networks.torchvision_models import Torchvision
from stages.runtime.errors import UserError
from stages.training.initial_weights import copy_weights, freeze, read_weights
from stages.training.shards import Replica

FILE = Path("weights/of_a_test.pth")


def network(
    shape: tuple[int, int, int] = (3, 32, 32), classes: int = 5, *, small_input: bool = False
) -> nn.Module:
    torch.manual_seed(0)
    config = Torchvision(kind="torchvision", name="mobilenet_v3_small", small_input=small_input)
    return config.build(shape, classes)


def published() -> dict[str, torch.Tensor]:
    """Return weights with the names and shapes of torchvision's published ones."""
    torch.manual_seed(1)
    return import_torchvision().models.mobilenet_v3_small().state_dict()


@pytest.mark.parametrize(
    ("new", "random"),
    [
        ({}, []),
        ({"small_input": True}, []),  # MobileNet's first convolution is 3 x 3 anyway
        ({"shape": (1, 32, 32)}, ["1.features.0.0.weight"]),
    ],
)
def test_published_weights_are_taken_but_for_the_classifier(new: dict, random: list[str]):
    target, weights = network(**new), published()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    left = copy_weights(target, published(), FILE)
    assert left == [*random, "1.classifier.3.weight", "1.classifier.3.bias"]
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name] if name in left else weights[name[2:]])


def test_all_weights_of_an_earlier_run_are_taken():
    earlier = network()
    with torch.no_grad():
        earlier[1].classifier[3].weight.fill_(7)  # type: ignore[index, union-attr, operator]
    target = network()
    assert copy_weights(target, earlier.state_dict(), FILE) == []
    assert (target[1].classifier[3].weight == 7).all()  # type: ignore[index, union-attr]


def test_weights_without_a_classifier_and_of_data_parallel_are_taken():
    weights = {
        f"module.{name}": value
        for name, value in published().items()
        if not name.startswith("classifier.3")
    }
    left = copy_weights(network(), weights, FILE)
    assert left == ["1.classifier.3.weight", "1.classifier.3.bias"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda weights: weights.pop("features.3.block.0.0.weight"),
            "features.3.block.0.0.weight is missing, but the recipe's network has [88, 24, 1, 1]",
        ),
        (
            lambda weights: weights.update({"features.3.block.0.0.weight": torch.zeros(1, 2)}),
            "features.3.block.0.0.weight has the shape [1, 2], but the recipe's network has",
        ),
        (
            lambda weights: weights.update(head=torch.zeros(1)),
            "head is not in the recipe's network; use the weights of the same network",
        ),
    ],
)
def test_weights_of_another_network_are_refused(change, line: str):
    weights = published()
    change(weights)
    with pytest.raises(UserError, match=f"^{re.escape(f'{FILE}: {line}')}"):
        copy_weights(network(), weights, FILE)


def test_files_of_torch_and_of_safetensors_are_read(tmp_path: Path):
    weights = {"weight": torch.arange(6.0).view(2, 3)}
    torch.save(weights, tmp_path / "a.pth")
    safetensors.torch.save_file(weights, tmp_path / "b.safetensors")
    for path in tmp_path.iterdir():
        assert torch.equal(read_weights(path.read_bytes(), path)["weight"], weights["weight"])


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (Malicious(), "no file of weights alone (Weights only load failed"),
        ({"weights": Malicious()}, "no file of weights alone (Weights only load failed"),
        ({"epoch": 3, "state_dict": {}}, "dict (epoch, state_dict), not a state_dict"),
        (torch.zeros(3), "Tensor (), not a state_dict"),
        ({"weight": torch.tensor([1.0, torch.nan])}, "holds infinite values or NaN"),
    ],
)
def test_other_content_is_refused_and_runs_no_code(tmp_path: Path, content: object, line: str):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}: {line}')}"):
        read_weights(path.read_bytes(), path)
    assert not Path("hacked").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs", bytes(100)])
def test_damaged_files_are_refused(name: str, content: bytes):
    with pytest.raises(UserError, match=f"^{name}: no file of weights alone"):
        read_weights(content, Path(name))


def test_frozen_layers_keep_weights_and_statistics():
    frozen = network()
    freeze(frozen)
    trainable = [name for name, value in frozen.named_parameters() if value.requires_grad]
    assert trainable == ["1.classifier.3.weight", "1.classifier.3.bias"]
    replica = Replica(frozen)
    replica.copy_buffers()
    loss = replica.network(torch.rand(4, 3, 32, 32)).sum()
    assert len(torch.autograd.grad(loss, replica.parameters)) == 2
    assert all((change == 0).all() for change in replica.changes())
    assert replica.network[1].classifier[2].training  # dropout before the classifier stays active
