"""How a trained network is stored: its weights, and beside them how to build it."""

import hashlib
import io
import json
from pathlib import Path

import torch
from torch import nn

from stages.networks.registry import Network, build, parse
from stages.runtime.errors import UserError
from stages.runtime.inputs import Inputs
from stages.runtime.outputs import Outputs

WEIGHTS = Path("models/model_weights.pth")
RECORD = Path("models/network.json")


def save_network(
    outputs: Outputs,
    network: nn.Module,
    config: Network,
    shape: tuple[int, int, int],
    training: dict,
) -> None:
    """Store the weights as a plain state_dict, and as JSON how to build the network around them.

    The JSON holds the network's configuration, the `shape` of its images (channels, height, width),
    `training`, which describes how the weights were made (data set, recipe, parameters, number of
    images), the SHA-256 of the file of weights, and that of all these entries (`digest`).
    """
    buffer = io.BytesIO()  # torch.save to a path would write the path's stem into the file
    # Clones, each in memory of its own: views of a longer vector would be saved with all of it.
    state = {
        key: value.cpu().clone(memory_format=torch.contiguous_format)
        for key, value in network.state_dict().items()
    }
    torch.save(state, buffer)
    weights = buffer.getvalue()
    outputs.write_bytes(WEIGHTS, weights)
    record = {
        "network": config.model_dump(),
        "shape": shape,
        "training": training,
        "weights_sha256": sha256(weights),
    }
    outputs.write_json(RECORD, record | {"sha256": digest(record)})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest(record: dict) -> str:
    """Return the SHA-256 of a record as JSON with sorted keys."""
    return sha256(json.dumps(record, sort_keys=True).encode())


def load_network(inputs: Inputs | None = None) -> tuple[nn.Module, dict]:
    """Rebuild the trained network on the CPU, in eval mode; return it and what describes it.

    The files may be among a stage's `inputs`. The description is that of RECORD: `network`, `shape`,
    `training`, `weights_sha256`.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the network.
    """
    read = inputs.read if inputs else Path.read_bytes
    try:
        record = json.loads(read(RECORD))
        if record.pop("sha256") != digest(record):
            raise ValueError(f"{RECORD} has another checksum")
        classes = len(record["training"]["dataset"]["classes"])
        network = build(parse(record["network"]), tuple(record["shape"]), classes)
        weights = read(WEIGHTS)
        if record["weights_sha256"] != sha256(weights):
            raise ValueError("the weights have another checksum")
        network.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
        if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
            raise ValueError("weights are not finite")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; make it with `dvc repro train`") from None
    except Exception as error:  # torch.load can raise anything
        if getattr(error, "filename", None):  # the file cannot be read; the runner reports it
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{WEIGHTS} and {RECORD}: damaged, or do not fit each other ({reason}); "
            "`make doctor FIX=1` removes what is bad, here and in DVC's cache; then run `dvc repro`"
        ) from None
    return network.eval(), record
