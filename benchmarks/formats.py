"""Time one exported file: `python -m benchmarks.formats FORMAT PROJECT` prints JSON.

Milliseconds an image, one image at a time and 256, by the lines of the model card: medians.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from stages.exporting.formats import FORMATS

REPEATS = {1: 1000, 256: 50}


def main(name: str, project: str) -> None:
    form = next(form for form in FORMATS if form.name == name)
    lines: dict = {}
    exec(form.usage(Path(project, form.file)), lines)
    classify = lines["classify"]
    shape = json.loads(Path(project, "models/network.json").read_text())["shape"]
    milliseconds = {}
    for size, repeats in REPEATS.items():
        images = np.random.default_rng(0).random((size, *shape), np.float32)
        classify(images)  # the first run sets memory aside
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            classify(images)
            seconds.append(time.perf_counter() - started)
        milliseconds[size] = 1000 * statistics.median(seconds) / size
    print(json.dumps(milliseconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
