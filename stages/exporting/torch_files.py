"""PyTorch's own formats, each with its provenance inside.

The same network gives the same bytes, wherever it is exported: paths of source files and the build of
torch are left out.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version

import torch
from torch import nn

PROVENANCE = "provenance"  # the key, or the stem of a .json, under which each format keeps it


@dataclass(frozen=True, eq=False)
class Classifier:
    """The source of all formats."""

    # In eval mode: images [N, channels, height, width] → probabilities [N, classes], both float32.
    network: nn.Module
    provenance: dict
    calibration: torch.Tensor  # images float32 [n, channels, height, width] for int8's ranges

    def blank(self, count: int) -> torch.Tensor:
        """Return so many black images."""
        return torch.zeros(count, *self.calibration.shape[1:])

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The network as a graph for any number of images."""
        images = self.blank(2)  # of one image, torch would fix the number
        program = torch.export.export(
            self.network, (images,), dynamic_shapes=({0: torch.export.Dim("N")},)
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        return program


def write_torchscript(classifier: Classifier) -> bytes:
    """Trace the network and return the TorchScript file's bytes."""
    traced = torch.jit.trace(classifier.network, classifier.blank(1))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files=_extra(classifier))

    def without_source_paths(name: str, record: bytes) -> bytes | None:
        # These map the code to lines of torch's source by absolute paths; only errors use them.
        return None if name.endswith(".debug_pkl") else record

    return _rewrite(buffer.getvalue(), without_source_paths)


def write_pt2(classifier: Classifier) -> bytes:
    """Return the bytes of torch.export's file."""
    buffer = io.BytesIO()
    torch.export.save(classifier.program, buffer, extra_files=_extra(classifier))

    def without_build(name: str, record: bytes) -> bytes:
        return record.replace(torch.__version__.encode(), release("torch").encode())

    return _rewrite(buffer.getvalue(), without_build)


def release(library: str) -> str:
    """Return a library's version without its build: 2.13.0 of 2.13.0+cpu."""
    return version(library).partition("+")[0]


def _extra(classifier: Classifier) -> dict[str, str]:
    return {f"{PROVENANCE}.json": json.dumps(classifier.provenance)}


def _rewrite(archive: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """Copy one of PyTorch's files; `change` maps each record, or leaves it out by None."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    copy = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(copy)
    for name in reader.get_all_records():
        # The writer adds the version and the id of what it wrote by itself.
        if name not in ("version", ".data/version", ".data/serialization_id"):
            record = change(name, reader.get_record(name))
            if record is not None:
                writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return copy.getvalue()
