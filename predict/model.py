"""The exported network, by ONNX Runtime: no PyTorch is needed."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

from predict import ROOT
from stages.common.errors import UserError
from stages.common.params import Layout
from stages.network.pixels import to_input

MODEL = ROOT / "models/model.onnx"
PROVENANCE = "provenance"  # the entry of its metadata in which the file says where it comes from


class Model:
    """A file that the export stage wrote; it may be called from several threads at once.

    `classes` are their names, in the order of its answers, `layout` how its pictures are laid out,
    `title` what it was trained on.
    """

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
        try:
            entries = self._session.get_modelmeta().custom_metadata_map
            dataset = json.loads(entries[PROVENANCE])["training"]["dataset"]
            self.classes: list[str] = dataset["classes"]
            self.layout: Layout = dataset["layout"]
            self.title: str = dataset["title"]
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: not a model of this pipeline (it does not name its classes); run `dvc repro`"
            ) from None
        if shapes != [
            ("images", "tensor(float)", [1, 28, 28]),
            ("probabilities", "tensor(float)", [len(self.classes)]),
        ]:
            raise UserError(f"{path}: not a model of this pipeline ({shapes}); run `dvc repro`")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities float32 [N, classes] of images uint8 [N, 28, 28], 255 is ink."""
        return self._session.run(["probabilities"], {"images": to_input(images)})[0]
