"""Small inputs for stages and rooms, and how they are run on them in this process."""

import base64
import io
import tempfile
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from stages.datasets.layout import read_picture
from stages.networks.feed_forward import FeedForward
from stages.runtime.config import PARAMS, check, read_yaml
from stages.runtime.inputs import Inputs
from stages.runtime.outputs import Outputs, all_or_none
from stages.runtime.splits import Split, load_split, save_split
from stages.training.recipe import Recipe
from tests.project import ROOT

RECIPES: dict[str, dict] = read_yaml(ROOT / PARAMS)["recipes"]  # as params.yaml has them
# Those of this project, of which more is known than of any recipe that is added.
OURS = ("tutorial", "fast", "quick", "convolutional", "thorough", "photo", "finetune")
CLASSES = list("0123456789")
DATASET = {
    "name": "of a test",
    "title": "Of a test",
    "classes": CLASSES,
    "layout": "drawing",
    "sha256": "0" * 64,
}
TRAINING = {
    "dataset": DATASET,
    "images": 0,
    "recipe": "tutorial",
    "seed": 0,
    "device": "cpu",
    "parameters": {},
    "unsure_below": 0.9,
}
SHAPE = (1, 28, 28)
NETWORK = FeedForward(kind="feed_forward", hidden_sizes=[16], activations=["tanh"], dropout=0.5)


def recipe_of(name: str, **changes: object) -> Recipe:
    """Return a recipe of params.yaml with other values.

    Values of its parts have dotted keys: recipe_of("fast", **{"optimizer.learning_rate": 0.1}).
    """
    values = {"recipe": read_yaml(ROOT / PARAMS)["recipes"][name]}
    for key, value in changes.items():
        set_value(values, f"recipe.{key}", value)
    return check(PARAMS, f"recipes.{name}", values["recipe"], Recipe)


def set_value(document: Any, key: str, value: object) -> None:
    """Set document["recipes"]["fast"]["epochs"] for "recipes.fast.epochs"; a number is an index."""
    *sections, name = (int(part) if part.isdigit() else part for part in key.split("."))
    for section in sections:
        document = document[section]
    document[name] = value


def random_images(count: int) -> torch.Tensor:
    """Return the same images each time: uint8 [count, 1, 28, 28]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator)


def random_pictures(count: int) -> list[Image.Image]:
    """Return the same pictures each time: smooth shades of colours, RGB, 64 x 64."""
    levels = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((64, 64), Image.Resampling.BICUBIC) for one in levels]


def read_drawing(source: BinaryIO, size: int = 28) -> np.ndarray:
    """Read a picture in MNIST's layout, uint8 [size, size]."""
    return read_picture(source, "drawing", (1, size, size))[0]


def read_sheet(svg: bytes) -> tuple[Image.Image, list[str]]:
    """Return the picture in an SVG file of `draw_sheet`, and the lines of its captions."""
    root = ET.fromstring(svg)
    (picture,) = (one for one in root if one.tag.endswith("}image"))
    content = base64.b64decode(picture.attrib["href"].removeprefix("data:image/png;base64,"))
    return Image.open(io.BytesIO(content)), [
        text.strip() for text in root.itertext() if text.strip()
    ]


class AnyInputs(Inputs):
    """The inputs of a stage whose files have no digests, in the current folder."""

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self.params = read_yaml(PARAMS) if PARAMS.exists() else None
        # So that no run resumes from the checkpoint of another.
        self.fingerprint = {"run": uuid.uuid4().hex}
        self._check, self._mapped = check, set()

    def check(self, quick: bool = False) -> None:
        self._check()

    def compare(self, name: str, digest: str) -> None:
        pass


def run_stage(
    main: Callable[[Inputs, Outputs], None], check_inputs: Callable[[], None] = lambda: None
) -> None:
    """Run a stage's `main` in the current folder, and publish its outputs."""
    write(lambda outputs: main(AnyInputs(check_inputs), outputs))


def write(function: Callable[[Outputs], None]) -> None:
    """Call a function with `Outputs`, which are published when it returns."""
    with all_or_none() as outputs:
        function(outputs)


def store(path: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Store images uint8 [N, C, H, W] and labels, any int [N], as the prepare stage does."""
    arrays = images.numpy(), labels.long().numpy()
    write(lambda outputs: save_split(outputs, path, *arrays, DATASET))


def split_of(images: torch.Tensor, labels: torch.Tensor) -> Split:
    """Return a split of images uint8 [N, C, H, W] and labels, any int [N]; no file is left."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "split.safetensors")
        store(path, images, labels)
        return load_split(path)
