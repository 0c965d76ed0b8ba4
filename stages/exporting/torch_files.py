"""PyTorch's own formats, each with its provenance inside.

The same network gives the same bytes, wherever it is exported: what tells of source files is left out.
"""

import io
import json
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from stages.common.splits import SIDE

PROVENANCE = "provenance"  # the key, or the stem of a .json, under which each format keeps it


@dataclass(frozen=True, eq=False)
class Classifier:
    """What the formats are written from."""

    network: nn.Module  # in eval mode: images [N, 1, 28, 28] → probabilities [N, 10], both float32
    provenance: dict
    calibration: torch.Tensor  # images float32 [n, 1, 28, 28] by which int8 learns its ranges

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The network as a graph for any number of images."""
        images = torch.zeros(2, 1, SIDE, SIDE)  # of one image, torch would fix the number
        program = torch.export.export(
            self.network, (images,), dynamic_shapes=({0: torch.export.Dim("N")},)
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        return program


def write_torchscript(classifier: Classifier) -> bytes:
    """Trace the network and return the TorchScript file's bytes."""
    traced = torch.jit.trace(classifier.network, torch.zeros(1, 1, SIDE, SIDE))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files=_extra(classifier))
    return _without_source_paths(buffer.getvalue())


def write_pt2(classifier: Classifier) -> bytes:
    """Return the bytes of torch.export's file."""
    buffer = io.BytesIO()
    torch.export.save(classifier.program, buffer, extra_files=_extra(classifier))
    return buffer.getvalue()


def _extra(classifier: Classifier) -> dict[str, str]:
    return {f"{PROVENANCE}.json": json.dumps(classifier.provenance)}


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
