"""Small inputs for stages and rooms, and how they are run on them in this process."""

import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import torch

from stages.common.files import Outputs, whole_files
from stages.common.splits import Split, load_split, save_split
from stages.common.stage import Stage

CLASSES = list("0123456789")
DATASET = {
    "name": "of a test",
    "title": "Of a test",
    "classes": CLASSES,
    "layout": "mnist",
    "sha256": "0" * 64,
}
TRAINING = {
    "dataset": DATASET,
    "images": 0,
    "recipe": "tutorial",
    "seed": 0,
    "device": "cpu",
    "parameters": {},
}


# A small network, as `networks.build` takes it.
NETWORK = {
    "network": "feed_forward",
    "hidden_sizes": [16],
    "activations": ["tanh"],
    "dropout": 0.5,
}


def random_images(count: int) -> torch.Tensor:
    """Return the same images each time: uint8 [count, 28, 28]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=generator)


def run_stage(
    main: Callable[[Stage], None], check_inputs: Callable[[], None] = lambda: None
) -> None:
    """Run a stage's `main` in the folder in which we stand, and publish its outputs."""
    facts = {"run": uuid.uuid4().hex}  # so that no run goes on from the checkpoint of another
    write(lambda outputs: main(Stage(outputs, facts, check_inputs)))


def write(function: Callable[[Outputs], None]) -> None:
    """Call a function with `Outputs`, which are published when it returns."""
    with whole_files() as outputs:
        function(outputs)


def store(path: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Store images uint8 [N, 28, 28] and labels, any int [N], as the prepare stage does."""
    arrays = images.numpy(), labels.long().numpy()
    write(lambda outputs: save_split(outputs, path, *arrays, DATASET))


def split_of(images: torch.Tensor, labels: torch.Tensor) -> Split:
    """Return a split of images uint8 [N, 28, 28] and labels, any int [N]; no file is left."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "split.safetensors")
        store(path, images, labels)
        return load_split(path)
