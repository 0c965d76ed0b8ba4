"""Train the network and store its weights."""

import math
from collections.abc import Iterator
from pathlib import Path

from common import errors
from common.arrays import load_split
from common.determinism import fix_arithmetic, fix_training
from common.errors import UserError
from common.files import whole_folder
from common.inference import accuracy, mean_loss, predict_batches
from common.networks import build, to_input
from common.params import TrainParams, load_params
from common.weights import save_network

import torch
from dvclive import Live
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

METRICS = Path("metrics/train")
VALIDATION_BATCH_SIZE = 1000  # bounds memory only


def train(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, params: TrainParams
) -> Iterator[float]:
    """Train `network` in place; after each epoch yield its mean training loss in nats.

    `images` is uint8 [N, 28, 28], `labels` int64 [N], on the network's device.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=params.learning_rate, fused=True)
    shuffle = torch.Generator().manual_seed(params.seed)
    for epoch in range(1, params.epochs + 1):
        network.train()
        order = torch.randperm(len(labels), generator=shuffle).to(labels.device)
        total_loss = torch.zeros((), device=labels.device)
        # disable=None: a bar on a terminal only
        for batch in tqdm(order.split(params.batch_size), f"epoch {epoch}", None, disable=None):
            loss = cross_entropy(network(to_input(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total_loss += loss.detach() * len(batch)
        yield total_loss.item() / len(labels)


def pick_device(name: str) -> torch.device:
    """Return the device for `train.device`; "auto" is CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if name == "auto":
        name = available[0]
    if name not in available:
        raise UserError(
            f"params.yaml: train.device: {name!r} is not on this machine or in this build of "
            f"torch; here are {', '.join(available)}, or use auto"
        )
    return torch.device(name)


def main() -> None:
    params = load_params().train
    device = pick_device(params.device)
    fix_arithmetic(params.threads)
    fix_training(params.seed)
    images, labels = (part.to(device) for part in load_split("train"))
    validation_images, validation_labels = load_split("validation")
    validation_images = validation_images.to(device)
    description = params.model_dump(include={"hidden_sizes", "activations", "dropout"})
    network = build(**description).to(device)

    with (
        whole_folder(METRICS) as folder,
        Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None) as live,
    ):
        for epoch, train_loss in enumerate(train(network, images, labels, params), start=1):
            finite = all(weights.isfinite().all() for weights in network.parameters())
            if not (finite and math.isfinite(train_loss)):
                raise UserError(
                    f"params.yaml: train.learning_rate: {params.learning_rate} led to a loss of "
                    f"{train_loss} and to weights that are {'' if finite else 'not '}finite in epoch "
                    f"{epoch}; use a smaller one"
                )
            live.step = epoch
            live.log_metric("train/loss", train_loss)
            line = f"Epoch {epoch}: train loss {train_loss:.6f}"
            if len(validation_labels):
                logits = predict_batches(network, validation_images, VALIDATION_BATCH_SIZE)
                right = accuracy(logits, validation_labels)
                loss = mean_loss(logits, validation_labels)
                live.log_metric("validation/accuracy", right)
                live.log_metric("validation/loss", loss)
                line += f", validation accuracy {right:.2%}, validation loss {loss:.6f}"
            live.make_summary()
            print(line, flush=True)
    save_network(network, description)


if __name__ == "__main__":
    errors.run(main)
