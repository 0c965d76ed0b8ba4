"""Time one exported file: `python benchmarks/formats.py FORMAT MODEL` prints JSON.

Milliseconds an image, one image at a time and 256, on one thread: medians, in a process of its own.
"""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from common.run_exported import load

import numpy as np

REPEATS = {1: 1000, 256: 50}


def main(name: str, model: str) -> None:
    run = load(name, model)
    milliseconds = {}
    for size, repeats in REPEATS.items():
        images = np.random.default_rng(0).random((size, 1, 28, 28), np.float32)
        run(images)  # the first run sets memory aside
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            run(images)
            seconds.append(time.perf_counter() - started)
        milliseconds[size] = 1000 * statistics.median(seconds) / size
    print(json.dumps(milliseconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
