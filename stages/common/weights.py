"""How a trained network is stored: its weights, and beside them how it was made."""

import io
import json
import pickle
from pathlib import Path

from common.errors import UserError
from common.files import write_bytes, write_json
from common.networks import build

import torch
from torch import nn

WEIGHTS = Path("models/model_weights.pth")
RECORD = Path("models/network.json")


def save_network(network: nn.Module, description: dict, training: dict) -> None:
    """Store the weights as a plain state_dict, and as JSON what `networks.build` takes, and `training`.

    `training` says how the weights were made: dataset, recipe, parameters, number of images.
    """
    buffer = io.BytesIO()  # torch.save to a path would write the path's stem into the file
    torch.save(
        {key: value.cpu().contiguous() for key, value in network.state_dict().items()}, buffer
    )
    write_bytes(WEIGHTS, buffer.getvalue())
    write_json(RECORD, {"network": description, "training": training})


def load_network() -> nn.Module:
    """Rebuild the trained network on the CPU, in eval mode.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the description.
    """
    try:
        network = build(load_record()["network"])
        network.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; make it with `dvc repro train`") from None
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        EOFError,
        pickle.PickleError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{WEIGHTS} and {RECORD}: damaged, or do not fit each other ({reason}); "
            "delete both and run `dvc repro`"
        ) from None
    return network.eval()


def load_record() -> dict:
    """Return `network`, what `networks.build` takes, and `training`, how the weights were made."""
    return json.loads(RECORD.read_text())
