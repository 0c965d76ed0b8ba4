"""Model files that are missing, damaged or of another origin end in one line."""

from pathlib import Path

import numpy as np
import pytest

from predict.model import Model
from stages.runtime.errors import UserError
from tests.predict.models import CERTAIN, CLASSES, DATASET, write_model

NAN = float("nan")


def refusal(path: Path) -> str:
    """Return the line with which a model file is refused, without its path."""
    with pytest.raises(UserError) as caught:
        Model(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.endswith("`dvc repro`")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


def test_a_model_returns_probabilities(tmp_path: Path):
    model = Model(write_model(tmp_path / "model.onnx", CERTAIN))
    assert np.array_equal(model(np.zeros((3, 1, 28, 28), np.uint8)), [CERTAIN] * 3)


@pytest.mark.parametrize(
    ("output", "repeats", "reason"),
    [
        ([NAN, *CERTAIN[1:]], 1, "its probabilities are not finite"),
        ([float("inf"), *CERTAIN[1:]], 1, "its probabilities are not finite"),
        ([0.0] * 10, 1, "its output is not probabilities: it does not sum to 1"),
        ([1.0] * 10, 1, "its output is not probabilities"),
        ([-1.0, 2.0] + [0.0] * 8, 1, "its output is not probabilities"),
        (CERTAIN, 2, "2 images give an output of shape (4, 10)"),
        ([1.0, 0.0], 1, "[('images', 'tensor(float)', [1, 28, 28]), ('probabilities', "),
        (CERTAIN, -1, "it does not run ("),
    ],
)
def test_a_model_with_wrong_output_is_refused(
    tmp_path: Path, output: list[float], repeats: int, reason: str
):
    assert reason in refusal(write_model(tmp_path / "model.onnx", output, repeats=repeats))


@pytest.mark.parametrize(
    "dataset",
    [
        '{"training": {"dataset": ' + "[" * 100_000,
        DATASET | {"classes": "0123456789"},
        DATASET | {"classes": [*CLASSES[:-1], 9]},
        DATASET | {"classes": ["one"]},
        DATASET | {"layout": "other"},
        DATASET | {"layout": ["drawing"]},
        DATASET | {"title": 7},
        {"classes": CLASSES},
        [],
        None,
    ],
)
def test_a_model_without_a_description_of_its_data_is_refused(tmp_path: Path, dataset: object):
    line = refusal(write_model(tmp_path / "model.onnx", CERTAIN, dataset))
    assert "its metadata do not describe a data set" in line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "not an ONNX file, or damaged ("),
        (b"text", "not an ONNX file, or damaged ("),
    ],
)
def test_a_missing_or_damaged_model_is_refused(tmp_path: Path, content: bytes | None, reason: str):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    assert refusal(path).startswith(reason)


def test_a_line_break_in_a_models_name_is_escaped(tmp_path: Path):
    with pytest.raises(UserError, match=r"two\\nlines.onnx: not a model"):
        Model(write_model(tmp_path / "two\nlines.onnx", [NAN] * 10))
