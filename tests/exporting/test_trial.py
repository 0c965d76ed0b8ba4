from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.common.errors import UserError
from stages.common.params import ExportParams, load_params
from stages.exporting.formats import FORMATS
from stages.exporting.torch_files import Classifier
from stages.exporting.trial import BATCH_SIZE, Trial, check, measure, probabilities
from stages.network.pixels import to_input
from tests.project import ROOT
from tests.samples import split_of

ONNX, INT8 = FORMATS[2:]


def params(**changes: object) -> ExportParams:
    return load_params(ROOT / "params.yaml").export.model_copy(update=changes)


def test_a_model_that_differs_is_refused():
    check(ONNX, Trial(0.9, 1e-6), 0.9, params(tolerance=1e-5))
    for trial, line in (
        (Trial(0.9, 1e-4), r"a probability is 1\.0e-04 .* allows 1\.0e-05"),
        (Trial(0.9, float("nan")), "a probability is nan"),
        (Trial(0.8, 1e-6), r"accuracy 0\.8 is not the eager network's 0\.9"),
    ):
        with pytest.raises(UserError, match=rf"^models/model\.onnx: [^\n]*{line}"):
            check(ONNX, trial, 0.9, params(tolerance=1e-5))


def test_int8_may_differ_but_not_lose_more_than_allowed():
    allowed = params(max_accuracy_drop=0.01)
    check(INT8, Trial(0.895, 0.3), 0.9, allowed)
    check(INT8, Trial(0.95, 0.3), 0.9, allowed)
    with pytest.raises(
        UserError, match=r"int8\.onnx: test accuracy 0\.88 .*max_accuracy_drop allows 0\.01"
    ):
        check(INT8, Trial(0.88, 0.3), 0.9, allowed)


def test_all_images_are_tried_in_their_order(tmp_path: Path):
    """Of more than a batch, whose last one is not full."""
    generator = torch.Generator().manual_seed(0)
    count = BATCH_SIZE + 3
    images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(dim=1)).eval()
    classifier = Classifier(network.requires_grad_(False), {}, to_input(images[:10]))
    expected = network(to_input(images))
    file = tmp_path / 'a "folder" of any\\name, größer 😀' / "model"
    file.parent.mkdir()
    file.write_bytes(ONNX.write(classifier))
    torch.testing.assert_close(probabilities(ONNX, file, images), expected)
    split = split_of(images, expected.argmax(dim=1))
    expected[BATCH_SIZE + 2, 4] += 0.5  # of the last image
    assert measure(ONNX, file, split, expected) == (1.0, pytest.approx(0.5, abs=1e-6))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("import stages", "ModuleNotFoundError: No module named 'stages'"),
        ("import os; os._exit(3)", "exit code 3"),
        ("def classify(images): raise MemoryError('no room')", "MemoryError: no room"),
    ],
)
def test_a_trial_is_a_strangers_and_says_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, reason: str
):
    monkeypatch.chdir(ROOT)  # where `stages` lies
    images = torch.zeros(2 * BATCH_SIZE, 28, 28, dtype=torch.uint8)  # more than a pipe holds
    with pytest.raises(
        UserError, match=rf"^models/model\.onnx: does not run \({reason}\); not exp"
    ):
        probabilities(replace(ONNX, lines=lines), tmp_path / "model", images)


def test_a_file_that_is_none_is_one_line(tmp_path: Path):
    (tmp_path / "model").write_bytes(b"damaged")
    images = torch.zeros(3, 28, 28, dtype=torch.uint8)
    for form in FORMATS:
        with pytest.raises(
            UserError, match=rf"^{form.file}: does not run \([^\n]+\); not exported$"
        ):
            probabilities(form, tmp_path / "model", images)
