"""The table of export formats: what each is, how it is written, how it runs.

Each takes images float32 [N, C, H, W] in [0, 1], any N, and gives probabilities float32 [N, classes].
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages.exporting.onnx_files import write_int8, write_onnx
from stages.exporting.torch_files import Classifier, write_pt2, write_torchscript


def _by_torch(load: str) -> str:
    return f"""import torch
model = {load}
def classify(images):
    with torch.inference_mode():
        return model(torch.as_tensor(images)).numpy()"""


BY_ONNX_RUNTIME = """import onnxruntime
model = onnxruntime.InferenceSession("{file}")
def classify(images):
    return model.run(["probabilities"], {"images": images})[0]"""


@dataclass(frozen=True)
class Format:
    name: str  # in metrics/export.json
    file: Path
    description: str
    write: Callable[[Classifier], bytes]
    # What a user writes to load "{file}" and to classify images, NumPy arrays. The model card shows
    # these lines, the verification runs them on the test set, and the benchmark times them.
    lines: str
    exact: bool = True  # its probabilities are the eager network's but for rounding

    def usage(self, file: Path) -> str:
        """Return the lines of Python that define `classify`, with the model loaded from `file`."""
        return self.lines.replace('"{file}"', json.dumps(str(file), ensure_ascii=False))


FORMATS = (
    Format(
        "torchscript",
        Path("models/model.pth"),
        "TorchScript, for PyTorch in Python and C++",
        write_torchscript,
        _by_torch('torch.jit.load("{file}")'),
    ),
    Format(
        "pt2",
        Path("models/model.pt2"),
        "torch.export, for PyTorch 2.13",
        write_pt2,
        _by_torch('torch.export.load("{file}").module()'),
    ),
    Format(
        "onnx",
        Path("models/model.onnx"),
        "ONNX, for ONNX Runtime and many others; needs no PyTorch",
        write_onnx,
        BY_ONNX_RUNTIME,
    ),
    Format(
        "int8",
        Path("models/model.int8.onnx"),
        "ONNX whose matrices and convolutions calculate in int8",
        write_int8,
        BY_ONNX_RUNTIME,
        exact=False,
    ),
)
