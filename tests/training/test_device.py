import pytest
import torch

from stages.runtime.errors import UserError
from stages.training.device import compute_deterministically, pick_device


def test_a_missing_device_is_one_line():
    assert pick_device("cpu") == torch.device("cpu")
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(UserError, match=rf"train\.device: '{missing}' is not on this machine.*cpu"):
        pick_device(missing)


def test_auto_picks_the_fastest_device_and_names_it_unless_it_is_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for available, device in ((False, "cpu"), (True, "mps")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda known=available: known)
        assert pick_device("auto").type == device
        note = "note: train.device: auto is mps: the last digits"
        assert capsys.readouterr().out.startswith(note) == available


def test_nondeterministic_kernels_are_refused_and_denormals_are_zero():
    torch.set_flush_denormal(False)
    assert (torch.tensor(1e-38) * 0.01).item() != 0
    torch.set_deterministic_debug_mode("default")
    compute_deterministically()
    assert torch.get_deterministic_debug_mode() == 2  # an error, not a warning
    assert (torch.tensor(1e-38) * 0.01).item() == 0
