"""How many images a second `python -m predict` classifies, and in how much memory, as JSON."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]


def write_images(folder: Path, count: int) -> None:
    """Write `count` PNGs of 28 x 28 in MNIST's form: upright strokes 20 high, of any greys."""
    random = np.random.default_rng(0)
    for number in range(count):
        image = np.zeros((28, 28), np.uint8)
        image[4:24, 12:16] = random.integers(100, 256, (20, 4))
        Image.fromarray(image).save(folder / f"{number:06}.png")


def measure(folder: Path, model: str) -> dict:
    """Classify a folder in a process of its own: seconds, with its start, and peak MiB."""
    command = [sys.executable, "-m", "predict", str(folder), "--json", "--model", model]
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB here
    return {"seconds": round(seconds, 2), "peak_mib": round(usage.ru_maxrss / unit)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 images instead of 10,000")
    parser.add_argument("--model", default="models/model.onnx", help="an exported model")
    options = parser.parse_args()
    count = 200 if options.quick else 10_000
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), count)
        result = measure(Path(name), options.model)
    print(
        json.dumps(
            {"images": count, "images_per_second": round(count / result["seconds"])} | result
        )
    )


if __name__ == "__main__":
    main()
