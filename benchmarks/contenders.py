"""One training, timed, in a process of its own: `python -m benchmarks.contenders NAME FOLDER …`.

FOLDER holds the images as `write_images` leaves them. The last line on stdout is JSON: wall and CPU
seconds of each epoch's training, wall seconds of each test, and the test accuracy after each epoch
(null: not tested).
"""

import argparse
import json
import os
import runpy
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
IDX_NAMES = {"train": "train", "test": "t10k"}

# Wall and CPU seconds; differences have a meaning.
Mark = tuple[float, float]
# Of an epoch: before and after the training, after the test; the test accuracy.
Epochs = Iterator[tuple[Mark, Mark, Mark, float | None]]


def clock() -> Mark:
    """Return wall and CPU seconds of this process."""
    return time.perf_counter(), time.process_time()


def write_images(folder: Path, dataset: str) -> None:
    """Write MNIST, or the embedded digits, as torchvision's and as the pipeline's files."""
    from stages.datasets import digits, idx
    from stages.datasets.description import read_description
    from stages.runtime.outputs import all_or_none
    from stages.runtime.splits import TEST, TRAIN, save_split

    description = read_description(dataset)
    images, labels, test = (
        idx.load(dataset, description) if dataset == "mnist" else digits.load(seed=0)
    )
    about = {"classes": description.classes}
    sets = [(images[part], labels[part]) for part in (~test, test)]
    os.chdir(folder)
    raw = Path("MNIST/raw")
    raw.mkdir(parents=True)
    for split, path, (images, labels) in zip(IDX_NAMES, (TRAIN, TEST), sets, strict=True):
        with all_or_none() as outputs:
            save_split(outputs, path, images, labels, about)
        # The header of the IDX format: 2,048 + the number of axes, then their lengths.
        header = struct.pack(">4I", 2051, len(images), *images.shape[2:])
        (raw / f"{IDX_NAMES[split]}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2I", 2049, *labels.shape)
        (raw / f"{IDX_NAMES[split]}-labels-idx1-ubyte").write_bytes(
            header + labels.astype("uint8").tobytes()
        )


def published(epochs: int) -> Epochs:
    """The tutorial as published, in our words."""
    # Without importing `stages`, which says how our stages compute: this computes as torch chooses.
    runpy.run_path(str(ROOT / "stages/networks/torchvision_import.py"))["import_torchvision"]()
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    loaders = [
        DataLoader(
            datasets.MNIST(root=".", train=train, transform=transforms.ToTensor()), batch_size=32
        )
        for train in (True, False)
    ]
    network = nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(28 * 28, 96), nn.Tanh(), nn.Dropout(0.2)),
        *(nn.Linear(96, 256), nn.Sigmoid(), nn.Dropout(0.2)),
        *(nn.Linear(256, 10), nn.Softmax(dim=1)),
    )
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(epochs):
        started = clock()
        for images, labels in loaders[0]:
            loss = loss_function(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trained = clock()
        hits, total_loss = 0.0, 0.0
        with torch.no_grad():
            for images, labels in loaders[1]:
                outputs = network(images)
                total_loss += loss_function(outputs, labels).item()
                hits += (outputs.argmax(1) == labels).type(torch.float).sum().item()
        yield started, trained, clock(), hits / len(loaders[1].dataset)


def recipe(name: str, epochs: int | None, seed: int, plain: bool) -> Epochs:
    """One of this pipeline's recipes, on all training images; the test set only reports.

    `plain`: by the loop that any device can run, on one thread.
    """
    from stages.networks.inference import accuracy, predict_batches
    from stages.networks.registry import build
    from stages.runtime.config import PARAMS, read_yaml, section
    from stages.runtime.splits import TEST, TRAIN, load_split
    from stages.training import fast_mlp
    from stages.training.device import compute_deterministically, own_threads
    from stages.training.fast_mlp import FastMLP
    from stages.training.loop import Loop
    from stages.training.parallel import Group
    from stages.training.recipe import Recipe

    import torch  # isort: skip  after `stages`, which sets how to compute

    cpu = torch.device("cpu")
    params = section(read_yaml(ROOT / PARAMS), f"recipes.{name}", Recipe)
    params = params.model_copy(update={"epochs": epochs or params.epochs})
    compute_deterministically()
    torch.manual_seed(seed)
    split, test = load_split(TRAIN), load_split(TEST)
    network = build(params.network, split.shape, len(split.classes))
    network = network.to(memory_format=torch.channels_last)
    fast = fast_mlp.fits(network, params, cpu)
    trainer = (FastMLP if fast and not plain else Loop)(
        network, split, params, seed, Group(1 if plain else own_threads(cpu))
    )
    for epoch in range(1, params.epochs + 1):
        started = clock()
        trainer.epoch(epoch)
        trained = clock()
        test_accuracy = None
        if fast or epoch == params.epochs:  # the test of other networks takes much of an epoch
            test_accuracy = accuracy(predict_batches(network, test.images, 1000), test.labels)
        yield started, trained, clock(), test_accuracy


def sklearn(epochs: int) -> Epochs:
    """scikit-learn's network of the same layers (it knows one activation, and no dropout)."""
    from safetensors.numpy import load_file
    from sklearn.neural_network import MLPClassifier

    splits = [load_file(f"data/prepared/{split}.safetensors") for split in ("train", "test")]
    inputs, tests = (
        split["images"].reshape(len(split["images"]), -1).astype("float32") / 255
        for split in splits
    )
    labels, test_labels = (split["labels"] for split in splits)
    network = MLPClassifier((96, 256), activation="tanh", alpha=0, batch_size=32, random_state=0)
    for _ in range(epochs):
        started = clock()
        network.partial_fit(inputs, labels, classes=range(10))
        trained = clock()
        test_accuracy = network.score(tests, test_labels)
        yield started, trained, clock(), test_accuracy


def products(epochs: int) -> Epochs:
    """Nothing but the matrix products of the recipe's steps, with the recipe's arithmetic."""
    from stages.runtime.splits import TRAIN, load_split

    size = 32
    steps = -(-len(load_split(TRAIN)) // size)
    layers = []
    import numpy as np  # after `stages`, which says how to compute

    draw = partial(np.random.default_rng(0).random, dtype=np.float32)
    for inputs, units in ((784, 96), (96, 256), (256, 10)):
        parts = draw((units, inputs)), draw((size, inputs)), draw((size, units))
        layers.append((*parts, *map(np.empty_like, parts)))
    for _ in range(epochs):
        started = clock()
        for _ in range(steps):
            for layer, (weight, x, delta, gradient, below, z) in enumerate(layers):
                np.dot(x, weight.T, out=z)
                np.dot(delta.T, x, out=gradient)
                if layer > 0:  # nobody needs the derivative by the images
                    np.dot(delta, weight, out=below)
        yield started, (trained := clock()), trained, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    if arguments.name == "images":
        write_images(arguments.folder, arguments.dataset)
        return
    os.chdir(arguments.folder)
    contenders = {"published": published, "sklearn": sklearn, "products": products}
    if arguments.name in contenders:
        epochs = contenders[arguments.name](arguments.epochs or 10)
    else:
        epochs = recipe(arguments.name, arguments.epochs, arguments.seed, arguments.plain)
    times: dict[str, list] = {"train": [], "cpu": [], "test": [], "accuracy": []}
    for started, trained, tested, accuracy in epochs:
        times["train"].append(trained[0] - started[0])
        times["cpu"].append(trained[1] - started[1])
        times["test"].append(tested[0] - trained[0])
        times["accuracy"].append(accuracy)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
