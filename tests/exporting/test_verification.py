from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.exporting.formats import FORMATS
from stages.exporting.params import ExportParams
from stages.exporting.torch_files import Classifier
from stages.exporting.verification import BATCH_SIZE, Measurement, Verifier, check
from stages.networks.pixels import to_input
from stages.runtime.config import PARAMS, read_yaml
from stages.runtime.errors import UserError
from tests.project import ROOT
from tests.samples import split_of

ONNX, INT8 = (next(form for form in FORMATS if form.name == name) for name in ("onnx", "int8"))


def params(**changes: object) -> ExportParams:
    return ExportParams(**read_yaml(ROOT / PARAMS)["export"] | changes)


COUNT = 2 * BATCH_SIZE  # more than a pipe holds
SPLIT = split_of(torch.zeros(COUNT, 1, 28, 28, dtype=torch.uint8), torch.arange(COUNT) % 10)


def test_a_model_that_differs_is_refused():
    check(ONNX, Measurement(0.9, 1e-6), 0.9, params(tolerance=1e-5))
    for measurement, line in (
        (Measurement(0.9, 1e-4), r"a probability is 1\.0e-04 .* allows 1\.0e-05"),
        (Measurement(0.9, float("nan")), "a probability is nan"),
        (Measurement(0.8, 1e-6), r"accuracy 0\.8 is not the eager network's 0\.9"),
    ):
        with pytest.raises(UserError, match=rf"^models/model\.onnx: [^\n]*{line}"):
            check(ONNX, measurement, 0.9, params(tolerance=1e-5))


def test_int8_may_differ_but_not_lose_more_than_allowed():
    allowed = params(max_accuracy_drop=0.01)
    check(INT8, Measurement(0.895, 0.3), 0.9, allowed)
    check(INT8, Measurement(0.95, 0.3), 0.9, allowed)
    with pytest.raises(
        UserError, match=r"int8\.onnx: test accuracy 0\.88 .*max_accuracy_drop allows 0\.01"
    ):
        check(INT8, Measurement(0.88, 0.3), 0.9, allowed)


def test_all_images_are_measured_in_their_order(tmp_path: Path):
    """More than a batch; the last batch is not full."""
    generator = torch.Generator().manual_seed(0)
    count = BATCH_SIZE + 3
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(dim=1)).eval()
    classifier = Classifier(network.requires_grad_(False), {}, to_input(images[:10]))
    expected = network(to_input(images))
    file = tmp_path / 'a "folder" of any\\name, größer 😀' / "model"
    file.parent.mkdir()
    file.write_bytes(ONNX.write(classifier))
    split = split_of(images, expected.argmax(dim=1))
    torch.testing.assert_close(Verifier(ONNX, file, split, tmp_path).probabilities(), expected)
    expected[BATCH_SIZE + 2, 4] += 0.5  # of the last image
    result = Verifier(ONNX, file, split, tmp_path).measure(expected)
    assert result == (1.0, pytest.approx(0.5, abs=1e-6))


def test_a_verifier_that_is_not_needed_ends(tmp_path: Path):
    verifier = Verifier(ONNX, tmp_path / "model", SPLIT, tmp_path)
    verifier.stop()
    assert verifier._process.returncode is not None


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("import stages", "ModuleNotFoundError: No module named 'stages'"),
        ("import os; os._exit(3)", "exit code 3"),
        ("def classify(images): raise MemoryError('no room')", "MemoryError: no room"),
    ],
)
def test_the_verification_imports_nothing_of_ours_and_names_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, reason: str
):
    monkeypatch.chdir(ROOT)  # where `stages` is
    verifier = Verifier(replace(ONNX, lines=lines), tmp_path / "model", SPLIT, tmp_path)
    with pytest.raises(
        UserError, match=rf"^models/model\.onnx: does not run \({reason}\); not exp"
    ):
        verifier.probabilities()


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path):
    (tmp_path / "model").write_bytes(b"damaged")
    for form in FORMATS:
        with pytest.raises(
            UserError, match=rf"^{form.file}: does not run \([^\n]+\); not exported$"
        ):
            Verifier(form, tmp_path / "model", SPLIT, tmp_path).probabilities()
