"""Checksums of all that short runs of each recipe give: `python -m tests.pipeline.digests`.

They are printed as JSON, or with --write written to digests.json; then the names of those that changed
are printed. The same come out on every x86-64 processor with AVX2 (docs/reproducibility.md).

QEMU computes the distortion of images wrongly, which no processor does. So the convolutional recipes
are run without it, too, and with --undistorted only so.
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
from stages.common.splits import TEST, TRAIN, VALIDATION
from stages.datasets import digits
from stages.exporting.trial import Trial
from stages.training import loop
from tests.project import ROOT
from tests.samples import run_stage, store

FILE = Path(__file__).with_suffix(".json")
RECIPES = ("tutorial", "fast", "gelu", "convolutional", "thorough")
DISTORTING = ("convolutional", "thorough")
IMAGES = {TRAIN: 200, VALIDATION: 50, TEST: 130}  # and so no batch size divides them


def lay_out(name: str) -> None:
    """Store what the stages read: some of the embedded digits, and parameters for two short epochs."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    # An activation that no recipe has.
    params["recipes"]["gelu"] = params["recipes"]["tutorial"] | {"activations": ["gelu", "relu"]}
    params["train"]["recipe"] = name
    params["recipes"][name]["epochs"] = 2
    params["export"] |= {"max_accuracy_drop": 1.0, "calibration_images": 120}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    images, labels, _ = map(torch.from_numpy, digits.load(seed=0))
    for path, count in IMAGES.items():
        store(path, images[:count], labels[:count])
        images, labels = images[count:], labels[count:]


def run(name: str) -> dict[str, str]:
    """Train, evaluate and export by a recipe; return the SHA-256 of each file, by its path."""
    recipe, _, undistorted = name.partition(" ")
    patch = mock.patch.object(loop, "distort", lambda images, _: images)
    # Trials of the exported files stand in no file, and QEMU would have to start their processes.
    no_trial = mock.patch.multiple(export, measure=lambda *_: Trial(0, 0), check=lambda *_: None)
    with (
        no_trial,
        contextlib.redirect_stdout(io.StringIO()),  # what the stages say is not asked for
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        patch if undistorted else contextlib.nullcontext(),
    ):
        lay_out(recipe)
        known = set(files())
        for stage in (train, evaluate, export):
            run_stage(stage.main)
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files()
            if path not in known
        }


def files() -> Iterator[Path]:
    return (path for path in sorted(Path().rglob("*")) if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--undistorted", action="store_true")
    arguments = parser.parse_args()
    # Their order shows in model.pth, since TorchScript numbers all that a process has traced. A process
    # for each would take QEMU much longer, and it cannot fork one.
    names = [f"{name} undistorted" if name in DISTORTING else name for name in RECIPES]
    names += () if arguments.undistorted else DISTORTING
    found = {name: run(name) for name in names}
    if not arguments.write:
        print(json.dumps(found, indent=2))
        return
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps(found, indent=2) + "\n")
    changed = [
        f"{name}: {file} has changed"
        for name, digests in found.items()
        for file, digest in digests.items()
        if before.get(name, {}).get(file) != digest
    ]
    print("\n".join(changed) or "Nothing has changed.")


if __name__ == "__main__":
    main()
