"""Model files that are not the export stage's: one line, whatever they answer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from predict.model import PROVENANCE, Model
from stages.common.errors import UserError
from tests.datasets.hostile import dots
from tests.predict.drawings import draw
from tests.predict.test_predict import encoded, predict

CLASSES = list("0123456789")
ABOUT = {"classes": CLASSES, "layout": "mnist", "title": "Digits"}
SURE = [0.0] * 3 + [1.0] + [0.0] * 6


def write(path: Path, answer: list[float], about: object = ABOUT, repeats: int = 1) -> Path:
    """Write a model that gives the same answer for each image, `repeats` times."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"], start=0, end=1),
        helper.make_node("Mul", ["shape", "repeats"], ["rows"]),
        helper.make_node("Concat", ["rows", "one"], ["target"], axis=0),
        helper.make_node("Expand", ["answer", "target"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "fixed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["M", 10])],
        [
            helper.make_tensor("answer", TensorProto.FLOAT, [1, len(answer)], answer),
            helper.make_tensor("repeats", TensorProto.INT64, [1], [repeats]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    text = about if isinstance(about, str) else json.dumps({"training": {"dataset": about}})
    helper.set_model_props(model, {PROVENANCE: text})
    onnx.save(model, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Model(path)
    start, line = f"{path}: ", str(caught.value)
    assert line.startswith(start)
    assert line.endswith("`dvc repro`")
    assert "\n" not in line
    return line.removeprefix(start)


def test_a_model_that_gives_probabilities_is_taken(tmp_path: Path):
    model = Model(write(tmp_path / "model.onnx", SURE))
    assert np.array_equal(model(np.zeros((3, 28, 28), np.uint8)), [SURE] * 3)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_probabilities_that_are_not_finite_are_an_error(tmp_path: Path, odd: float):
    line = refusal(write(tmp_path / "model.onnx", [odd, *SURE[1:]]))
    assert line.startswith("not a model of this pipeline (its probabilities are not finite)")


@pytest.mark.parametrize("answer", [[0.0] * 10, [1.0] * 10, [-1.0, 2.0] + [0.0] * 8])
def test_answers_that_are_no_probabilities_are_an_error(
    tmp_path: Path, answer: list[float], explained: Callable[[str], None]
):
    line = refusal(write(tmp_path / "model.onnx", answer))
    assert "its answers are not probabilities" in line
    explained(line)


def test_an_answer_of_another_shape_than_declared_is_an_error(tmp_path: Path):
    line = refusal(write(tmp_path / "model.onnx", SURE, repeats=2))
    assert "it gives (4, 10) for 2 images" in line


def test_a_model_that_does_not_run_is_an_error(tmp_path: Path, explained: Callable[[str], None]):
    line = refusal(write(tmp_path / "model.onnx", SURE, repeats=-1))
    assert "it does not run (" in line
    explained(line)


@pytest.mark.parametrize(
    "about",
    [
        '{"training": {"dataset": ' + "[" * 100_000,
        ABOUT | {"classes": "0123456789"},
        ABOUT | {"classes": [*CLASSES[:-1], 9]},
        ABOUT | {"layout": "other"},
        ABOUT | {"layout": ["mnist"]},
        ABOUT | {"title": 7},
        {"classes": CLASSES},
        [],
    ],
)
def test_a_model_that_does_not_say_what_it_is_is_an_error(
    tmp_path: Path, about: object, explained: Callable[[str], None]
):
    line = refusal(write(tmp_path / "model.onnx", SURE, about))
    assert "it does not name its classes" in line
    explained(line)


def test_the_name_of_a_model_does_not_split_the_line(tmp_path: Path):
    with pytest.raises(UserError) as caught:
        Model(write(tmp_path / "two\nlines.onnx", [float("nan")] * 10))
    assert "two\\nlines.onnx: not a model" in str(caught.value)


def test_predict_says_so_in_one_line(tmp_path: Path, explained: Callable[[str], None]):
    path = write(tmp_path / "model.onnx", [float("nan")] * 10)
    result = predict("--model", path, "predict/examples", code=1)
    assert result.stdout == b""
    assert result.stderr.startswith(b"error: ")
    assert result.stderr.count(b"\n") == 1
    explained(result.stderr.decode())


def test_one_bad_picture_does_not_cost_the_others_their_answers(tmp_path: Path):
    """Dots five apart ended the whole batch."""
    path = write(tmp_path / "model.onnx", SURE)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for size in (2, 3, 4):
        Image.fromarray(dots(256, 5, size)).save(folder / f"dots {size}.png")
    draw(3).save(folder / "three.png")
    content = encoded(draw(3)).getvalue()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    result = predict("--model", path, folder, code=1)
    assert str(folder / "three.png").encode() in result.stdout
    answered = result.stdout.count(b"\n")
    told = result.stderr.decode().splitlines()
    assert answered + len(told) == 5
    assert all(line.startswith(f"error: {folder}/") for line in told)


def test_standard_input_is_bounded(tmp_path: Path, explained: Callable[[str], None]):
    path = write(tmp_path / "model.onnx", SURE)
    with Path("/dev/zero").open("rb") as endless:
        result = predict("--model", path, "-", code=1, stdin=endless)
    assert result.stderr == b"error: -: larger than 250 megabytes; scale it down\n"
    explained(result.stderr.decode())


def test_names_of_classes_do_not_reach_the_terminal_as_they_are(tmp_path: Path):
    classes = [f"\x1b[31m{name}\n" for name in CLASSES]
    path = write(tmp_path / "model.onnx", SURE, ABOUT | {"classes": classes})
    result = predict("--model", path, "predict/examples/three.png")
    assert b"\x1b" not in result.stdout
    assert result.stdout.count(b"\n") == 1
