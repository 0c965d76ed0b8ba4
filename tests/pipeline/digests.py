"""Checksums of all files that short runs of each recipe write: `python -m tests.pipeline.digests`.

Those of the recipes in digests.json are printed as JSON; with --write, those of all recipes are written
to it, and the names of the files that changed are printed. They are the same on every x86-64 processor
with AVX2 (docs/reproducibility.md).

QEMU computes `grid_sample` wrongly, which no processor does. So augmented recipes also run without
augmentation, and with --not-augmented only so.
"""

import argparse
import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
import yaml

from stages import evaluate, export, train
from stages.datasets import digits
from stages.exporting.verification import Measurement
from stages.runtime.config import PARAMS, read_yaml
from stages.runtime.splits import TEST, TRAIN, VALIDATION
from tests.project import ROOT
from tests.samples import RECIPES, run_stage, set_value, store

FILE = Path(__file__).with_suffix(".json")
PLAIN = " without augmentation"
VARIANTS = {"gelu": ("tutorial", "network.activations", ["gelu", "relu"])}  # in no recipe
AUGMENTED = [name for name, recipe in RECIPES.items() if recipe["augmentation"]]
# In this order, which model.pth depends on: TorchScript numbers all that a process has traced. A
# process for each would take QEMU much longer.
NOT_AUGMENTED = [name + PLAIN if name in AUGMENTED else name for name in (*RECIPES, *VARIANTS)]
IMAGES = {TRAIN: 200, VALIDATION: 50, TEST: 130}  # no multiples of a batch size


def lay_out(name: str) -> None:
    """Store what the stages read: some of the embedded digits, and parameters for two short epochs."""
    params = read_yaml(ROOT / PARAMS)
    recipe = name.removesuffix(PLAIN)
    base, key, value = VARIANTS.get(recipe, (recipe, "epochs", 2))
    params["recipes"] = {recipe: params["recipes"][base] | {"epochs": 2}}
    set_value(params["recipes"][recipe], key, value)
    if name.endswith(PLAIN):
        params["recipes"][recipe]["augmentation"] = []
    params["train"]["recipe"] = recipe
    params["export"] |= {"max_accuracy_drop": 1.0, "calibration_images": 120}
    PARAMS.write_text(yaml.safe_dump(params))
    images, labels, _ = map(torch.from_numpy, digits.load(seed=0))
    for path, count in IMAGES.items():
        store(path, images[:count], labels[:count])
        images, labels = images[count:], labels[count:]


def run(name: str) -> dict[str, str]:
    """Train, evaluate and export by a recipe; return the SHA-256 of each file, by its path."""
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


def files() -> Iterator[Path]:
    return (path for path in sorted(Path().rglob("*")) if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--not-augmented", action="store_true")
    arguments = parser.parse_args()
    names = NOT_AUGMENTED if arguments.not_augmented else NOT_AUGMENTED + AUGMENTED
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
