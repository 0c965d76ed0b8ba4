"""The exported network, by ONNX Runtime: no PyTorch is needed."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime

from predict import ROOT
from stages.common.errors import UserError, printable
from stages.common.params import SIDE, Layout
from stages.network.pixels import to_input

MODEL = ROOT / "models/model.onnx"
SUM_TOLERANCE = 1e-3  # by which float32, and int8 within the network, miss a sum of 1
PROVENANCE = "provenance"  # the entry of its metadata in which the file says where it comes from


class Model:
    """A file that the export stage wrote; it may be called from several threads at once.

    `classes` are their names, in the order of its answers, `layout` how its pictures are laid out,
    `title` what it was trained on.
    """

    def __init__(self, path: Path = MODEL):
        """Load the model, and try it on a white and on a black image.

        A model file is trusted like a program: it may take any time and memory.

        Raises:
            UserError: the file is missing, damaged, or another kind of model.
        """
        self._name = printable(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong, we say ourselves
        # One thread for each call: the batches are small, and the demo answers several at once.
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except FileNotFoundError:
            raise UserError(f"{self._name}: no such file; make it with `dvc repro`") from None
        except OSError:
            raise
        except Exception as error:  # its exceptions have no common base
            raise self._error("not an ONNX file, or damaged", error, "make it with") from None
        shapes = [
            (one.name, one.type, one.shape[1:])
            for one in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        try:
            entries = self._session.get_modelmeta().custom_metadata_map
            dataset = json.loads(entries[PROVENANCE])["training"]["dataset"]
            self.classes, self.layout, self.title = _about(dataset)
        except (KeyError, TypeError, ValueError, RecursionError):
            raise self._foreign("it does not name its classes") from None
        if shapes != [
            ("images", "tensor(float)", [1, SIDE, SIDE]),
            ("probabilities", "tensor(float)", [len(self.classes)]),
        ]:
            raise self._foreign(shapes)
        self(np.stack([np.full((SIDE, SIDE), grey, np.uint8) for grey in (0, 255)]))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities float32 [N, classes] of images uint8 [N, 28, 28], 255 is ink.

        Raises:
            UserError: the file gives something else.
        """
        try:
            [found] = self._session.run(["probabilities"], {"images": to_input(images)})
        except Exception as error:
            raise self._error("it does not run", error, "make it anew with") from None
        if found.shape != (len(images), len(self.classes)):
            raise self._foreign(f"it gives {found.shape} for {len(images)} images")
        if not np.isfinite(found).all():
            raise self._foreign("its probabilities are not finite")
        if (found < 0).any() or (abs(found.sum(axis=1) - 1) > SUM_TOLERANCE).any():
            raise self._foreign("its answers are not probabilities: they do not sum to 1")
        return found

    def _foreign(self, reason: object) -> UserError:
        return UserError(f"{self._name}: not a model of this pipeline ({reason}); run `dvc repro`")

    def _error(self, problem: str, error: Exception, advice: str) -> UserError:
        reason = printable(" ".join(str(error).split()))
        return UserError(f"{self._name}: {problem} ({reason}); {advice} `dvc repro`")


def _about(dataset: dict) -> tuple[list[str], Layout, str]:
    """Return a data set's classes, layout and title.

    Raises:
        KeyError, TypeError, ValueError: they are not there, or no such thing.
    """
    classes, layout, title = (dataset[key] for key in ("classes", "layout", "title"))
    named = isinstance(classes, list) and all(isinstance(name, str) for name in (*classes, title))
    if not named or len(classes) < 2 or layout not in get_args(Layout):
        raise ValueError
    return classes, layout, title
