import hashlib
import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from stages.networks.checkpoint import RECORD, WEIGHTS, load_network, save_network
from stages.networks.convolutional import Convolutional
from stages.networks.registry import Network, build
from stages.runtime.errors import UserError
from tests.samples import NETWORK, SHAPE, TRAINING, write

CONVOLUTIONAL = Convolutional(
    kind="convolutional", channels=[4, 8], kernel_sizes=[5, 3], pool_sizes=[2, 2]
)


def trained(config: Network) -> torch.nn.Module:
    """A network whose running statistics are not those of the start, in channels-last memory."""
    torch.manual_seed(0)
    network = build(config, SHAPE, 10).to(memory_format=torch.channels_last)
    network(torch.rand(5, *SHAPE))
    return network


def save(config: Network) -> torch.nn.Module:
    network = trained(config)
    write(lambda outputs: save_network(outputs, network, config, SHAPE, TRAINING))
    return network


@pytest.mark.parametrize("config", [NETWORK, CONVOLUTIONAL])
def test_the_stored_network_is_rebuilt_from_its_own_files(in_empty_folder: Path, config: Network):
    network = save(config)
    rebuilt, record = load_network()
    checksum = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert record == {
        "network": config.model_dump(),
        "shape": [1, 28, 28],
        "training": TRAINING,
        "weights_sha256": checksum,
    }
    assert not rebuilt.training
    expected, state = network.state_dict(), torch.load(WEIGHTS, weights_only=True)
    assert list(state) == list(rebuilt.state_dict()) == list(expected)
    for name, values in rebuilt.state_dict().items():
        assert torch.equal(values, expected[name])
        assert torch.equal(state[name], expected[name])
        assert state[name].is_contiguous()


def test_the_same_network_gives_the_same_bytes(in_empty_folder: Path):
    save(CONVOLUTIONAL)
    first = WEIGHTS.read_bytes(), RECORD.read_bytes()
    save(CONVOLUTIONAL)
    assert (WEIGHTS.read_bytes(), RECORD.read_bytes()) == first


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (WEIGHTS, b""),
        (WEIGHTS, b"damaged"),
        (WEIGHTS, None),
        (RECORD, b""),
        (RECORD, json.dumps({"network": NETWORK.model_dump() | {"hidden_sizes": [17]}}).encode()),
        (RECORD, json.dumps({"network": NETWORK.model_dump() | {"kind": "recurrent"}}).encode()),
        (RECORD, b'{"network": {"layers": 3}}'),
        (RECORD, b"[]"),
        (RECORD, json.dumps({"network": CONVOLUTIONAL.model_dump()}).encode()),
        (RECORD, None),
    ],
)
def test_a_network_that_cannot_be_rebuilt_is_one_line(
    in_empty_folder: Path, path: Path, content: bytes | None
):
    save(NETWORK)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^[^\n]*{path}[^\n]*`dvc repro[^\n]*$"):
        load_network()


@pytest.mark.parametrize("length", [1000, 10_000, -10])
def test_weights_that_are_cut_off_are_one_line(in_empty_folder: Path, length: int):
    save(NETWORK)
    WEIGHTS.write_bytes(WEIGHTS.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"^{WEIGHTS} and [^\n]*damaged[^\n]*`dvc repro`$"):
        load_network()


def test_one_wrong_bit_of_the_weights_is_noticed(in_empty_folder: Path):
    network = save(NETWORK)
    content = WEIGHTS.read_bytes()
    place = content.index(network[1].weight.detach().numpy().tobytes())
    WEIGHTS.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(UserError, match="the weights have another checksum"):
        load_network()


def test_each_bit_of_the_record_counts(in_empty_folder: Path):
    save(NETWORK)
    content = RECORD.read_bytes()
    expected = json.loads(content)
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        with suppress(ValueError):
            if json.loads(changed) == expected:  # another space between two values
                continue
        RECORD.write_bytes(changed)
        with pytest.raises(UserError, match=rf"^{WEIGHTS} and {RECORD}: damaged"):
            load_network()


def test_weights_that_cannot_be_read_are_not_called_damaged(in_empty_folder: Path):
    save(NETWORK)
    WEIGHTS.unlink()
    WEIGHTS.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        load_network()
    assert caught.value.filename == str(WEIGHTS)  # so the runner reports it in one line
