"""Run an exported classifier as a stranger would: without this project, in a process of its own.

`python run_exported.py FORMAT MODEL OUTPUT` reads images uint8 [N, 28, 28], as bytes, from standard
input, and writes their probabilities float32 [N, 10] to OUTPUT, a .npy file.
"""

import gc
import sys
from collections.abc import Callable

import numpy as np

SIDE = 28
BATCH_SIZE = 250  # images; bounds memory


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


def main(name: str, model: str, output: str) -> None:
    run = load(name, model)
    outputs = []
    while content := sys.stdin.buffer.read(BATCH_SIZE * SIDE * SIDE):
        images = np.frombuffer(content, np.uint8).reshape(-1, 1, SIDE, SIDE)
        outputs.append(run(images.astype(np.float32) / 255))
    np.save(output, np.concatenate(outputs))
    gc.freeze()  # else Python would look for cycles among all of torch's objects as it ends


if __name__ == "__main__":
    main(*sys.argv[1:])
