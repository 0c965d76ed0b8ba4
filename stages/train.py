"""Train the network and store its weights."""

import math
from pathlib import Path

from common import convolutional, errors, feed_forward
from common.arrays import load_split
from common.determinism import fix_arithmetic, fix_training
from common.errors import UserError
from common.files import whole_folder
from common.history import History
from common.inference import accuracy, mean_loss, predict_batches
from common.networks import build
from common.params import FeedForwardParams, load_params
from common.weights import save_network

import torch

METRICS = Path("metrics/train")
VALIDATION_BATCH_SIZE = 250  # bounds memory only


def pick_device(name: str, recipe: str) -> torch.device:
    """Return the device for `<recipe>.device`; "auto" is CUDA, else Apple's MPS, else the CPU.

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
            f"params.yaml: {recipe}.device: {name!r} is not on this machine or in this build of "
            f"torch; here are {', '.join(available)}, or use auto"
        )
    return torch.device(name)


def main() -> None:
    params = load_params()
    recipe = params.training
    device = pick_device(recipe.device, params.recipe)
    fix_arithmetic(recipe.threads)
    fix_training(recipe.seed)
    training, validation = load_split("train"), load_split("validation")
    network = build(recipe.description).to(device)
    trainer = feed_forward if isinstance(recipe, FeedForwardParams) else convolutional

    with whole_folder(METRICS) as folder:
        history = History(folder)
        epochs = trainer.train(network, training, recipe, device)
        for epoch, (train_loss, train_accuracy) in enumerate(epochs, start=1):
            values = {"train": {"accuracy": train_accuracy, "loss": train_loss}}
            line = f"Epoch {epoch}: train loss {train_loss:.6f}"
            if len(validation):
                logits = predict_batches(network, validation, VALIDATION_BATCH_SIZE, device)
                right = accuracy(logits, validation.labels)
                loss = mean_loss(logits, validation.labels)
                values["validation"] = {"accuracy": right, "loss": loss}
                line += f", validation accuracy {right:.2%}, validation loss {loss:.6f}"
            losses = [part["loss"] for part in values.values()]
            finite = all(weights.isfinite().all() for weights in network.parameters())
            if not (finite and all(map(math.isfinite, losses))):
                raise UserError(
                    f"params.yaml: {params.recipe}.learning_rate: {recipe.learning_rate} led to "
                    f"losses of {losses} and to weights that are "
                    f"{'' if finite else 'not '}finite in epoch {epoch}; use a smaller one"
                )
            history.log(epoch, values)
            print(line, flush=True)
    training_record = {
        "dataset": training.dataset,
        "images": len(training),
        "recipe": params.recipe,
        "parameters": recipe.model_dump(exclude=set(recipe.description)),
    }
    save_network(network, recipe.description, training_record)


if __name__ == "__main__":
    errors.run(main)
