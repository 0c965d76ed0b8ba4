"""The exported network, by ONNX Runtime: no PyTorch is needed."""

from pathlib import Path

import numpy as np
import onnxruntime

from predict import ROOT
from stages.common.errors import UserError
from stages.network.pixels import to_input

MODEL = ROOT / "models/model.onnx"
CLASSES = 10


class Model:
    """A file that the export stage wrote; it may be called from several threads at once."""

    def __init__(self, path: Path = MODEL):
        """Load the model.

        Raises:
            UserError: the file is missing, damaged, or another kind of model.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong, we say ourselves
        # One thread for each call: the batches are small, and the demo answers several at once.
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; make it with `dvc repro`") from None
        except OSError:
            raise
        except Exception as error:  # its exceptions have no common base
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path}: not an ONNX file, or damaged ({reason}); make it with `dvc repro`"
            ) from None
        shapes = [
            (one.name, one.type, one.shape[1:])
            for one in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        if shapes != [
            ("images", "tensor(float)", [1, 28, 28]),
            ("probabilities", "tensor(float)", [CLASSES]),
        ]:
            raise UserError(f"{path}: not a model of this pipeline ({shapes}); run `dvc repro`")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities float32 [N, 10] of images uint8 [N, 28, 28], 255 is ink."""
        return self._session.run(["probabilities"], {"images": to_input(images)})[0]
