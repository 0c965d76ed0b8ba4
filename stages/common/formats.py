"""The formats of an exported classifier, each with its provenance inside.

Each takes images float32 [N, 1, 28, 28] in [0, 1], any N, and gives probabilities float32 [N, 10].
The same network gives the same bytes, wherever it is exported: what tells of source files is left out.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from common.arrays import SIDE, Split

import numpy as np
import torch
from torch import nn

FILES = {
    "torchscript": Path("models/model.pth"),
    "pt2": Path("models/model.pt2"),
    "onnx": Path("models/model.onnx"),
    "int8": Path("models/model.int8.onnx"),
}
PROVENANCE = "provenance"  # the key, or the stem of a .json, under which each format keeps it
OPSET = 20  # of ONNX
CALIBRATION_BATCH_SIZE = 100


def to_torchscript(classifier: nn.Module, provenance: dict) -> bytes:
    """Trace `classifier`, in eval mode, and return the TorchScript file's bytes."""
    traced = torch.jit.trace(classifier, torch.zeros(1, 1, SIDE, SIDE))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files={f"{PROVENANCE}.json": json.dumps(provenance)})
    return _without_source_paths(buffer.getvalue())


def _without_source_paths(archive: bytes) -> bytes:
    """Copy a TorchScript file without its debug records.

    They map the code to lines of torch's source under absolute paths. Only error messages use them.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    copy = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(copy)
    for name in reader.get_all_records():
        # The writer adds the version and the id of what it wrote by itself.
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/serialization_id"):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return copy.getvalue()


def to_program(classifier: nn.Module) -> torch.export.ExportedProgram:
    """Export `classifier`, in eval mode, as a graph for any number of images."""
    images = torch.zeros(2, 1, SIDE, SIDE)  # of one image, torch would fix the number
    program = torch.export.export(
        classifier, (images,), dynamic_shapes=({0: torch.export.Dim("N")},)
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def to_pt2(program: torch.export.ExportedProgram, provenance: dict) -> bytes:
    """Return the bytes of torch.export's file."""
    buffer = io.BytesIO()
    extra = {f"{PROVENANCE}.json": json.dumps(provenance)}
    torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


def to_onnx(program: torch.export.ExportedProgram, provenance: dict) -> bytes:
    """Return the bytes of an ONNX file, its input named "images", its output "probabilities"."""
    import onnx

    # torch tells of each of its steps, and warns of its own use of what it deprecates.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.onnx.export(
            program,
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
    onnx.helper.set_model_props(model, {PROVENANCE: json.dumps(provenance)})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def to_int8(onnx_file: Path, split: Split, count: int) -> bytes:
    """Return the bytes of the ONNX file with matrix products and convolutions in int8.

    The range of each activation is measured on the first `count` images of `split`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            indices = torch.arange(min(count, len(split)))
            self._batches: Iterator[torch.Tensor] = iter(indices.split(CALIBRATION_BATCH_SIZE))

        def get_next(self) -> dict[str, np.ndarray] | None:
            indices = next(self._batches, None)
            if indices is None:
                return None
            images, _ = split.take(indices)
            return {"images": images.unsqueeze(1).numpy().astype(np.float32) / 255}

    prepared = onnx_file.with_suffix(".prepared.tmp")
    quantised = onnx_file.with_suffix(".quantised.tmp")
    try:
        quant_pre_process(onnx_file, prepared)
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
    finally:
        prepared.unlink(missing_ok=True)
        quantised.unlink(missing_ok=True)
    return model.SerializeToString(deterministic=True)
