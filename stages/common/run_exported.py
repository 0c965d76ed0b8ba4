"""Run an exported classifier as a stranger would: without this project, in a process of its own.

`python run_exported.py FORMAT MODEL IMAGES OUTPUT` writes the probabilities float32 [N, 10] of the
images in IMAGES, a file of data/prepared, to OUTPUT, a .npy file.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np
from safetensors import safe_open

BATCH_SIZE = 250


def batches(path: str) -> Iterator[np.ndarray]:
    """Yield the images, float32 [n, 1, 28, 28] in [0, 1], in order."""
    with safe_open(path, framework="np") as file:
        images = file.get_slice("images")
        count = images.get_shape()[0]
        for first in range(0, count, BATCH_SIZE):
            batch = images[first : min(first + BATCH_SIZE, count)]
            yield batch[:, None].astype(np.float32) / 255


def load(name: str, path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to probabilities, both as NumPy arrays, on one thread."""
    if name in ("onnx", "int8"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        return lambda images: session.run(["probabilities"], {"images": images})[0]
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = torch.jit.load(path) if name == "torchscript" else torch.export.load(path).module()
    return lambda images: model(torch.from_numpy(images)).numpy()


def main(name: str, model: str, images: str, output: str) -> None:
    run = load(name, model)
    np.save(output, np.concatenate([run(batch) for batch in batches(images)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
