"""The exported network, run by ONNX Runtime: PyTorch is not needed."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime

from predict import ROOT
from stages.datasets.layout import Shape
from stages.datasets.params import Layout, LayoutName
from stages.networks.pixels import to_input
from stages.runtime.errors import UserError

MODEL = ROOT / "models/model.onnx"
SUM_TOLERANCE = 1e-3  # float32 and int8 arithmetic round the sum of the probabilities
PROVENANCE = "provenance"  # key of the file's metadata


class Model:
    """A model file of the export stage; several threads may call it at once.

    `classes` are the class names in the order of the probabilities, `layout` is the layout of the
    pictures, `shape` that of their images (channels, height, width), `title` the title of the data set,
    `dataset` all that is known of it. The recipe is `recipe`; `accuracy` was measured on `test_images`
    images. Predictions less probable than `unsure_below`, in [0, 1], are unsure.
    """

    def __init__(self, path: Path = MODEL):
        """Load the model and run it on a black and a white image.

        A model file is trusted like a program: its time and memory are not limited.

        Raises:
            UserError: the file is missing, damaged, or not a model of this pipeline.
        """
        self._path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal: other errors are raised, too
        # One thread for each call: the batches are small, and the demo makes several calls at once.
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except FileNotFoundError:
            raise UserError(f"{self._path}: no such file; create it with `dvc repro`") from None
        except OSError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise self._error("not an ONNX file, or damaged", error) from None
        try:
            metadata = json.loads(self._session.get_modelmeta().custom_metadata_map[PROVENANCE])
            self.dataset: dict = metadata["training"]["dataset"]
            self.classes, self.layout, self.title = _parse(self.dataset)
            channels, height, width = metadata["shape"]
            self.shape: Shape = channels, height, width
            self.recipe = str(metadata["training"]["recipe"])
            self.accuracy = float(metadata["test"]["accuracy"])
            self.test_images = int(metadata["test"]["images"])
            # Without a validation set, it is not known.
            self.unsure_below = float(metadata["training"]["unsure_below"] or 0)
        except (KeyError, TypeError, ValueError, RecursionError):
            raise self._foreign("its metadata do not describe a data set and a test") from None
        signature = [
            (tensor.name, tensor.type, tensor.shape[1:])
            for tensor in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        if signature != [
            ("images", "tensor(float)", list(self.shape)),
            ("probabilities", "tensor(float)", [len(self.classes)]),
        ]:
            raise self._foreign(signature)
        self(np.stack([np.full(self.shape, level, np.uint8) for level in (0, 255)]))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities float32 [N, classes] of images uint8 [N, *shape].

        Raises:
            UserError: the output is not such an array.
        """
        try:
            [output] = self._session.run(["probabilities"], {"images": to_input(images)})
        except Exception as error:
            raise self._error("it does not run", error) from None
        if output.shape != (len(images), len(self.classes)):
            raise self._foreign(f"{len(images)} images give an output of shape {output.shape}")
        if not np.isfinite(output).all():
            raise self._foreign("its probabilities are not finite")
        if (output < 0).any() or (abs(output.sum(axis=1) - 1) > SUM_TOLERANCE).any():
            raise self._foreign("its output is not probabilities: it does not sum to 1")
        return output

    def _foreign(self, reason: object) -> UserError:
        return UserError(f"{self._path}: not a model of this pipeline ({reason}); run `dvc repro`")

    def _error(self, problem: str, error: Exception) -> UserError:
        reason = " ".join(str(error).split())
        return UserError(f"{self._path}: {problem} ({reason}); recreate it with `dvc repro`")


def _parse(dataset: dict) -> tuple[list[str], Layout, str]:
    """Return a data set's classes, layout and title.

    Raises:
        KeyError, TypeError, ValueError: one is missing or has a wrong type.
    """
    classes, layout, title = (dataset[key] for key in ("classes", "layout", "title"))
    strings = isinstance(classes, list) and all(isinstance(text, str) for text in (*classes, title))
    if not strings or len(classes) < 2 or layout not in get_args(LayoutName):
        raise ValueError
    return classes, layout, title
