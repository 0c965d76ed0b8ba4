"""ONNX, in float32 and in int8, each with its provenance inside and nothing of where it was made.

ONNX Runtime's kernels differ by processor: it computes nothing that these files contain.
"""

import json
import logging
import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx

from stages.exporting.torch_files import PROVENANCE, Classifier, release
from stages.runtime.outputs import temporary_folder

if TYPE_CHECKING:
    import onnx

OPSET = 20
CALIBRATION_BATCH_SIZE = 100
INPUT, OUTPUT = "images", "probabilities"


@cache  # int8 is made from it
def _convert(classifier: Classifier) -> "tuple[onnx.ModelProto, torch.export.ExportedProgram]":
    """Return the ONNX model, and the program whose nodes gave its values their names."""
    import onnx  # here, since it takes a second, in which TorchScript is checked already

    # torch logs each of its steps, and warns of its own deprecated calls.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(
            classifier.program,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert converted is not None  # only if a file were written
    model = converted.model_proto
    model.producer_version = release("torch")
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.helper.set_model_props(model, {PROVENANCE: json.dumps(classifier.provenance)})
    onnx.checker.check_model(model, full_check=True)
    assert converted.exported_program is not None
    return model, converted.exported_program


def write_onnx(classifier: Classifier) -> bytes:
    """Return the bytes of an ONNX file, its input named "images", its output "probabilities"."""
    return _convert(classifier)[0].SerializeToString(deterministic=True)


def write_int8(classifier: Classifier) -> bytes:
    """Return the bytes of the ONNX file with matrix products and convolutions in int8.

    The range of each activation is taken from the calibration images.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with temporary_folder() as folder:
        prepared, quantised, ranges = (
            folder / name for name in ("prepared.onnx", "quantised.onnx", "ranges.json")
        )
        model = onnx.load_from_string(write_onnx(classifier))
        quant_pre_process(model, prepared, skip_optimization=True)
        measured = TensorsData(CalibrationMethod.MinMax, activation_ranges(classifier))
        save_tensors_data(measured, ranges)
        quantize_static(
            prepared,
            quantised,
            calibration_cache_path=ranges,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
        )
        model = onnx.load(quantised)
    used = {node.domain for node in model.graph.node}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    return model.SerializeToString(deterministic=True)


def activation_ranges(classifier: Classifier) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the least and the greatest value, float32 [], of each value of the ONNX file by its name.

    They are those over the calibration images, computed by PyTorch.
    """
    limits: dict[str, Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, node: fx.Node) -> object:
            value = super().run_node(node)
            if isinstance(value, Tensor) and value.is_floating_point():
                name = INPUT if node.op == "placeholder" else node.name
                known = limits.get(name, value[:0].flatten())
                limits[name] = torch.stack(torch.aminmax(torch.cat([value.flatten(), known])))
            return value

    watch = Watch(_convert(classifier)[1].module())
    with torch.inference_mode():
        for batch in classifier.calibration.split(CALIBRATION_BATCH_SIZE):
            watch.run(batch)
    return {name: tuple(pair.numpy()) for name, pair in limits.items()}
