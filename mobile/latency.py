"""Print size, test accuracy and latency of exported files, as rows of the table in docs/mobile.md.

Each test image is classified on its own, on one core; a row has the median of the times.
"""

# ruff: noqa: E402  numpy counts the cores as it is imported

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np
from safetensors.numpy import load_file


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images float32 [N, C, H, W] to probabilities float32 [N, classes]."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return lambda images: session.run(["probabilities"], {"images": images})[0]
    import torch

    torch.inference_mode().__enter__()
    if path.suffix == ".pte":
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")
        return lambda images: method.execute([torch.from_numpy(images)])[0].numpy()
    model = torch.jit.load(path) if path.suffix == ".pth" else torch.export.load(path).module()
    return lambda images: model(torch.from_numpy(images)).numpy()


def main() -> None:
    test = load_file("../data/prepared/test.safetensors")
    for path in map(Path, sys.argv[1:]):
        classify, times, correct = load(path), [], 0
        for image, label in zip(test["images"], test["labels"], strict=True):
            images = image[None] / np.float32(255)
            start = time.perf_counter()
            probabilities = classify(images)
            times.append(time.perf_counter() - start)
            correct += probabilities.argmax() == label
        accuracy, median = correct / len(times), np.median(times) * 1e6
        size = path.stat().st_size
        print(f"| `{path.name}` | {size:,} | {accuracy:.2%} | {median:.0f} |", flush=True)


if __name__ == "__main__":
    main()
