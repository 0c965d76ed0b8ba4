"""Start a training from the weights of another one, such as torchvision's published weights."""

import io
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from stages.runtime.errors import UserError

NONE = Path("weights/none")  # stands for random weights, since DVC's dependencies cannot be null


def read_weights(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors in the content of a file of torch.save or safetensors, by their names.

    Raises:
        UserError: it is neither, or holds something else. A pickle in it cannot run code.
    """
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load(content)
        else:
            weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load can raise anything
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: no file of weights alone ({reason}); save a state_dict by torch.save or "
            "safetensors"
        ) from None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        found = ", ".join(map(str, list(weights)[:5])) if isinstance(weights, dict) else ""
        raise UserError(
            f"{path}: {type(weights).__name__} ({found}), not a state_dict, whose values are tensors; "
            "save the state_dict alone"
        )
    if not all(value.isfinite().all() for value in weights.values()):
        raise UserError(f"{path}: holds infinite values or NaN; use other weights")
    return weights


def copy_weights(network: nn.Module, weights: dict[str, Tensor], path: Path) -> list[str]:
    """Copy weights into a network; return the names of the network's own that stay as they are.

    Only weights of the first and the last layer may: those of another shape, since the images have
    other channels or there are other classes, and those that are not in the file. The file may hold the
    weights of a part of the network, such as torchvision's network without our normalisation.

    Raises:
        UserError: the weights are those of another network.
    """
    consume_prefix_in_state_dict_if_present(weights, "module.")  # of DataParallel
    own = network.state_dict()
    parts = ["", *(f"{name}." for name, _ in network.named_modules() if name)]
    part = max(parts, key=lambda part: sum(part + name in own for name in weights))
    given = {part + name: value for name, value in weights.items()}
    if strange := given.keys() - own.keys():
        raise UserError(
            f"{path}: {min(strange).removeprefix(part)} is not in the recipe's network; use the "
            "weights of the same network"
        )
    layers = [name for name, layer in network.named_modules() if _is_layer(layer)]
    fitting = {name: value for name, value in given.items() if value.shape == own[name].shape}
    left = [name for name in own if name not in fitting]
    for name in left:
        layer, _, kind = name.rpartition(".")
        if layer not in (layers[0], layers[-1]) and kind != "num_batches_tracked":
            found = f"has the shape {list(given[name].shape)}" if name in given else "is missing"
            raise UserError(
                f"{path}: {name.removeprefix(part)} {found}, but the recipe's network has "
                f"{list(own[name].shape)}; use the weights of the same network"
            )
    network.load_state_dict(fitting, strict=False)
    return left


def freeze(network: nn.Module) -> None:
    """Keep all weights from training but those of the last layer, the classifier."""
    *_, classifier = filter(_is_layer, network.modules())
    network.requires_grad_(False)
    classifier.requires_grad_(True)


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module multiplies its input by weights: linear, or a convolution."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 1
