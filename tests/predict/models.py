"""Small ONNX files in the form of the export stage."""

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from predict.model import PROVENANCE

CLASSES = list("0123456789")
DATASET = {"classes": CLASSES, "layout": "drawing", "title": "Digits"}
TEST = {"accuracy": 0.9735, "images": 10_000}
CERTAIN = [0.0] * 3 + [1.0] + [0.0] * 6  # probabilities: a three


def write_model(
    path: Path, output: list[float], dataset: object = DATASET, repeats: int = 1
) -> Path:
    """Write a model with the same output for each image, `repeats` times."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"], start=0, end=1),
        helper.make_node("Mul", ["shape", "repeats"], ["rows"]),
        helper.make_node("Concat", ["rows", "columns"], ["target"], axis=0),
        helper.make_node("Expand", ["output", "target"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["M", len(output)])],
        [
            helper.make_tensor("output", TensorProto.FLOAT, [1, len(output)], output),
            helper.make_tensor("repeats", TensorProto.INT64, [1], [repeats]),
            helper.make_tensor("columns", TensorProto.INT64, [1], [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    provenance = {
        "training": {"dataset": dataset, "recipe": "tutorial", "unsure_below": 0.9},
        "test": TEST,
        "shape": [1, 28, 28],
    }
    text = dataset if isinstance(dataset, str) else json.dumps(provenance)
    helper.set_model_props(model, {PROVENANCE: text})
    onnx.save(model, path)
    return path
