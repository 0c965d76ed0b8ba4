import pytest
import torch

from stages.common.errors import UserError
from stages.training.setup import fix_randomness, pick_device


def test_a_device_that_is_not_there_is_one_line():
    assert pick_device("cpu") == torch.device("cpu")
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(UserError, match=rf"train\.device: '{missing}' is not on this machine.*cpu"):
        pick_device(missing)


def test_auto_is_the_fastest_device_that_is_there():
    mps = "mps" if torch.backends.mps.is_available() else "cpu"
    best = "cuda" if torch.cuda.is_available() else mps
    assert pick_device("auto") == torch.device(best)


def test_what_auto_has_found_is_told_where_it_is_no_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for is_there in (False, True):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=is_there: there)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        pick_device("auto")
        told = capsys.readouterr().out.startswith(
            "note: train.device: auto is mps: the last digits"
        )
        assert told == is_there


def test_the_same_seed_draws_the_same_numbers():
    draws = []
    for seed in (3, 3, 4):
        fix_randomness(seed)
        draws.append(torch.rand(5))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_kernels_that_draw_are_refused_and_denormals_are_zero():
    torch.set_flush_denormal(False)
    assert (torch.tensor(1e-38) * 0.01).item() != 0
    torch.set_deterministic_debug_mode("default")
    fix_randomness(0)
    assert torch.get_deterministic_debug_mode() == 2  # an error, not a warning
    assert (torch.tensor(1e-38) * 0.01).item() == 0
