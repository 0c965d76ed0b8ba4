"""ONNX, in float32 and in int8, each with its provenance inside and nothing of where it was made."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch

from stages.exporting.torch_files import PROVENANCE, Classifier

OPSET = 20
CALIBRATION_BATCH_SIZE = 100


@cache  # int8 is made from it
def write_onnx(classifier: Classifier) -> bytes:
    """Return the bytes of an ONNX file, its input named "images", its output "probabilities"."""
    import onnx  # here, since it takes a second, in which TorchScript is tried already

    # torch tells of each of its steps, and warns of its own use of what it deprecates.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.onnx.export(
            classifier.program,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            verbose=False,
        ).model_proto
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.helper.set_model_props(model, {PROVENANCE: json.dumps(classifier.provenance)})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def write_int8(classifier: Classifier) -> bytes:
    """Return the bytes of the ONNX file with matrix products and convolutions in int8.

    The range of each activation is measured on the calibration images.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches: Iterator[torch.Tensor] = iter(
                classifier.calibration.split(CALIBRATION_BATCH_SIZE)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "quantised.onnx")
        quant_pre_process(onnx.load_from_string(write_onnx(classifier)), prepared)
        quantize_static(
            prepared,
            quantised,
            Images(),
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
