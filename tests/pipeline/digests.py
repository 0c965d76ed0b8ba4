"""Checksums of all files that short runs of each recipe write: `python -m tests.pipeline.digests`.

Also of the weights and the logits of large networks after a step (STEPS). Those in digests.json are
printed as JSON; with --write, all are written to it, and the names of the files that changed are
printed. They are the same on every x86-64 processor with AVX2 (docs/reproducibility.md). Arm64 has its
own, in digests-arm64.json. Names after the command select runs.

QEMU 7.2 computes `grid_sample` wrongly, which no x86-64 processor does. So augmented recipes also run
without augmentation, and on an emulated x86-64 only so (EMULATED); large networks, which take it
minutes, only for a step.
"""

import argparse
import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from unittest import mock

import torch
import yaml

import stages
from stages import evaluate, export, train
from stages.datasets import digits
from stages.exporting.verification import Measurement
from stages.networks.inference import predict_batches
from stages.networks.registry import Network, build
from stages.networks.torchvision_models import Torchvision
from stages.runtime.config import PARAMS, parse_yaml
from stages.runtime.splits import TEST, TRAIN, VALIDATION
from stages.training.loop import Loop
from stages.training.parallel import Group
from tests.project import default_params
from tests.samples import RECIPES, recipe_of, run_stage, set_value, split_of, store

FILE = Path(__file__).with_name(
    "digests-arm64.json" if stages.ARCHITECTURE == stages.ARM64 else "digests.json"
)
PLAIN = " without augmentation"
VARIANTS = {"gelu": ("tutorial", "network.activations", ["gelu", "relu"])}  # in no recipe
STEPS: dict[str, Network] = {
    f"torchvision {name}": Torchvision(kind="torchvision", name=name)
    for name in get_args(Torchvision.model_fields["name"].annotation)
}
STEPS |= {f"a step of {name}": recipe_of(name).network for name in ("thorough", "photo")}
LARGE = [
    name
    for name, recipe in RECIPES.items()
    if f"a step of {name}" in STEPS or recipe["network"]["kind"] == "torchvision"
]
# In this order, which model.pth depends on: TorchScript numbers all that a process has traced. A
# process for each would take QEMU much longer.
EMULATED = [
    name + PLAIN if name in RECIPES and RECIPES[name]["augmentation"] else name
    for name in (*RECIPES, *VARIANTS)
    if name not in LARGE
]
NOT_EMULATED = [name for name in RECIPES if name not in EMULATED]
IMAGES = {TRAIN: 70, VALIDATION: 20, TEST: 40}  # no multiples of a batch size


def lay_out(name: str) -> None:
    """Store what the stages read: some of the embedded digits, and parameters for two short epochs."""
    params = parse_yaml(PARAMS, default_params().encode())
    recipe = name.removesuffix(PLAIN)
    base, key, value = VARIANTS.get(recipe, (recipe, "epochs", 2))
    params["recipes"] = {recipe: params["recipes"][base] | {"epochs": 2, "min_steps": 0}}
    set_value(params["recipes"][recipe], key, value)
    if name.endswith(PLAIN):
        params["recipes"][recipe]["augmentation"] = []
    params["train"]["recipe"] = recipe
    params["export"] |= {"max_accuracy_drop": 1.0, "calibration_images": 40}
    PARAMS.write_text(yaml.safe_dump(params))
    images, labels, _ = map(torch.from_numpy, digits.load(seed=0))
    for path, count in IMAGES.items():
        store(path, images[:count], labels[:count])
        images, labels = images[count:], labels[count:]


def run(name: str) -> dict[str, str]:
    """Train, evaluate and export by a recipe; return the SHA-256 of each file, by its path."""
    if name in STEPS:
        return run_step(STEPS[name])
    # Results of the verification are in no file, and QEMU would have to start its processes.
    verifier = mock.Mock()
    verifier.return_value.measure.return_value = Measurement(0, 0)
    not_verified = mock.patch.multiple(export, Verifier=verifier, check=lambda *_: None)
    with (
        not_verified,
        contextlib.redirect_stdout(io.StringIO()),
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
    ):
        lay_out(name)
        inputs = set(files())
        for stage in (train, evaluate, export):
            run_stage(stage.main)
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files()
            if path not in inputs
        }


def run_step(config: Network) -> dict[str, str]:
    """Train a network for a step; return the SHA-256 of what results."""
    changes = {"batch_size": 8, "epochs": 1, "augmentation": []}
    recipe = recipe_of("photo", **changes).model_copy(update={"network": config})
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=rng)
    split = split_of(images, torch.arange(8))
    torch.manual_seed(0)
    network = build(config, split.shape, 10).to(memory_format=torch.channels_last)
    Loop(network, split, recipe, 0, Group(1)).epoch(1)
    results = network.state_dict() | {"logits": predict_batches(network, images, 8)}
    digest = hashlib.sha256()
    for values in results.values():
        digest.update(values.contiguous().numpy().tobytes())
    return {"weights and logits": digest.hexdigest()}


def files() -> Iterator[Path]:
    return (path for path in sorted(Path().rglob("*")) if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*", default=[*EMULATED, *STEPS, *NOT_EMULATED])
    arguments = parser.parse_args()
    names = arguments.names
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    if not arguments.write:
        print(json.dumps({name: run(name) for name in names if name in before}, indent=2))
        return
    digests = {name: run(name) for name in names}
    FILE.write_text(json.dumps(digests, indent=2) + "\n")
    changed = [
        f"{name}: {file} has changed"
        for name, of_recipe in digests.items()
        for file, digest in of_recipe.items()
        if before.get(name, {}).get(file) != digest
    ]
    print("\n".join(changed) or "Nothing has changed.")


if __name__ == "__main__":
    main()
