"""One training without our stages: `python -m benchmarks.picture_contenders NAME FOLDER OPTIONS`.

FOLDER has train/ and test/, with a folder of pictures for each class; OPTIONS is JSON, the arguments
of the function NAME. `svc` and `cnn` print JSON: the test accuracy, and the wall and CPU seconds of the
training; `loop` prints a line after each epoch. Importing `stages` would change how PyTorch computes.
"""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.contenders import clock

ROOT = Path(__file__).parents[1]
runpy.run_path(str(ROOT / "stages/networks/torchvision_import.py"))["import_torchvision"]()
from torchvision import transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402


def load(
    folder: Path, size: int, mode: str, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures, uint8 [N, size, size, channels], and their labels, int64 [N], in random order.

    `mode` is Pillow's: L is grey, RGB has three channels. `limit` is the largest N.
    """
    pictures = ImageFolder(folder)
    chosen = np.random.default_rng(0).permutation(len(pictures))[:limit]
    images = np.empty((len(chosen), size, size, len(mode)), np.uint8)
    for image, index in zip(images, chosen, strict=True):
        picture = pictures[index][0].convert(mode).resize((size, size))
        image[:] = np.asarray(picture).reshape(image.shape)
    return images, np.array(pictures.targets)[chosen]


def svc(folder: Path, limit: int) -> dict:
    """scikit-learn's SVC with its defaults, on at most `limit` training pictures."""
    from sklearn.svm import SVC

    (images, labels), (tests, test_labels) = (
        load(folder / split, 32, "RGB", at_most)
        for split, at_most in (("train", limit), ("test", None))
    )
    started = np.array(clock())
    classifier = SVC().fit(images.reshape(len(images), -1) / 255, labels)
    seconds, cpu_seconds = clock() - started
    accuracy = classifier.score(tests.reshape(len(tests), -1) / 255, test_labels)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "accuracy": accuracy}


def cnn(folder: Path, size: int, mode: str, mirror: bool, seconds: float) -> dict:
    """A plain network, trained for so many seconds of CPU; on one thread, which wastes none of them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (images, labels), (tests, test_labels) = (
        map(torch.from_numpy, load(folder / split, size, mode)) for split in ("train", "test")
    )
    layers: list[nn.Module] = []
    for inputs, outputs in ((len(mode), 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    classes = int(labels.max()) + 1
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * (size // 8) ** 2, classes))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    started, batches = np.array(clock()), iter(())
    while (clock() - started)[1] < seconds:
        batch = next(batches, None)
        if batch is None:
            batches = iter(torch.randperm(len(images)).split(32))
            continue
        inputs = images[batch].permute(0, 3, 1, 2) / 255
        if mirror:
            mirrored = torch.rand(len(inputs), 1, 1, 1) < 0.5
            inputs = torch.where(mirrored, inputs.flip(-1), inputs)
        optimizer.zero_grad()
        cross_entropy(network(inputs), labels[batch]).backward()
        optimizer.step()
    spent, cpu_seconds = clock() - started
    with torch.no_grad():
        logits = [network(part.permute(0, 3, 1, 2) / 255) for part in tests.split(1000)]
    accuracy = (torch.cat(logits).argmax(dim=1) == test_labels).double().mean().item()
    return {"seconds": spent, "cpu_seconds": cpu_seconds, "accuracy": accuracy}


def plain_network(config: dict, classes: int) -> nn.Sequential:
    """Return a network of the kind `blocks`, in PyTorch's layers, of pictures in colour."""
    layers: list[nn.Module] = []

    def convolution(inputs: int, outputs: int, *pool: nn.Module) -> None:
        layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layers.extend([layer, *pool, nn.BatchNorm2d(outputs), nn.ReLU()])

    inputs = config["stem"]
    convolution(3, inputs)
    for outputs in config["channels"]:
        convolution(inputs, outputs, nn.MaxPool2d(2))
        convolution(outputs, outputs)
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def loop(folder: Path, size: int, epochs: int) -> None:
    """Train by the recipe `photo`, in the usual loop of PyTorch, on its own number of threads."""
    recipe = yaml.safe_load((ROOT / "params.yaml").read_text())["recipes"]["photo"]
    crop = next(part for part in recipe["augmentation"] if part["kind"] == "crop")
    transform = transforms.Compose(
        [
            transforms.Resize((size, size)),  # returns one that has the size
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(size, padding=crop["padding"], padding_mode="reflect"),
            transforms.ToTensor(),
        ]
    )
    pictures = ImageFolder(folder / "train", transform)
    loader = DataLoader(pictures, recipe["batch_size"], shuffle=True, num_workers=2, drop_last=True)
    network = plain_network(recipe["network"], len(pictures.classes))
    config = recipe["optimizer"]
    weights = [
        [w for w in network.parameters() if (w.ndim > 1) is decays] for decays in (True, False)
    ]
    optimizer = torch.optim.SGD(
        [{"params": weights[0], "weight_decay": config["weight_decay"]}, {"params": weights[1]}],
        lr=config["learning_rate"],
        momentum=config["momentum"],
        nesterov=config["nesterov"],
    )
    steps = epochs * len(loader)
    rise = config["schedule"]["warmup"] * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (steps - step) / (steps - rise))
    )
    loss_function = nn.CrossEntropyLoss(label_smoothing=recipe["loss"]["label_smoothing"])
    for epoch in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss_function(network(images), labels).backward()
            optimizer.step()
            schedule.step()
        print(f"Epoch {epoch + 1}", flush=True)


if __name__ == "__main__":
    name, folder, options = sys.argv[1:]
    results = {"svc": svc, "cnn": cnn, "loop": loop}[name](Path(folder), **json.loads(options))
    print(json.dumps(results))
