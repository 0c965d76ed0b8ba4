"""Train the network by the chosen recipe, watching the validation set."""

if __name__ == "__main__":
    from stages.common.frame import run

    run("stages.train")

import math
from pathlib import Path

import torch
from torch import nn

from stages.common.errors import UserError
from stages.common.params import Params, load_params
from stages.common.splits import TRAIN, VALIDATION, Split, load_split
from stages.common.stage import Stage
from stages.network.checkpoint import save_network
from stages.network.inference import accuracy, mean_loss, predict_batches
from stages.network.networks import build
from stages.training import feed_forward, loop, parallel
from stages.training.setup import fix_randomness, pick_device

METRICS = Path("metrics/train.json")
EPOCHS = Path("metrics/epochs.csv")
COLUMNS = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
VALIDATION_BATCH_SIZE = 250  # bounds memory only
# On a CPU, what does the same as `loop.train` in less time.
FASTER = {"feed_forward": feed_forward.train, "convolutional": parallel.train}


def validate(network: nn.Module, validation: Split, device: torch.device) -> loop.Result | None:
    """Return the network's result on the validation set; None if that is empty."""
    if len(validation) == 0:
        return None
    logits = predict_batches(network, validation.images, VALIDATION_BATCH_SIZE, device)
    return loop.Result(mean_loss(logits, validation.labels), accuracy(logits, validation.labels))


def check_finite(network: nn.Module, losses: list[float], epoch: int, params: Params) -> None:
    """Refuse a training whose losses or weights have become infinite or NaN.

    Raises:
        UserError: they have.
    """
    finite = all(weights.isfinite().all() for weights in network.parameters())
    if not (finite and all(map(math.isfinite, losses))):
        raise UserError(
            f"params.yaml: recipes.{params.train.recipe}.learning_rate: "
            f"{params.recipe.learning_rate} led to losses of {losses} and to weights that are "
            f"{'' if finite else 'not '}finite in epoch {epoch}; use a smaller one"
        )


def main(stage: Stage) -> None:
    params = load_params()
    recipe, seed = params.recipe, params.train.seed
    device = pick_device(params.train.device)
    training, validation = load_split(TRAIN), load_split(VALIDATION)

    fix_randomness(seed)
    network = build(recipe.architecture, len(training.classes)).to(device)
    train = FASTER[recipe.network] if device.type == "cpu" else loop.train
    rows, metrics = [], {}
    for epoch, result in enumerate(train(network, training, recipe, seed), start=1):
        stage.check_inputs()
        validated = validate(network, validation, device)
        line = f"Epoch {epoch}: train loss {result.loss:.6f}"
        metrics = {"train": result._asdict()}
        if validated:
            line += f", validation accuracy {validated.accuracy:.2%}"
            line += f", validation loss {validated.loss:.6f}"
            metrics["validation"] = validated._asdict()
        check_finite(network, [part["loss"] for part in metrics.values()], epoch, params)
        rows.append((epoch, *result, *(validated or (None, None))))
        print(line, flush=True)

    record = {
        "dataset": training.dataset,
        "images": len(training),
        **params.train.model_dump() | {"device": device.type},
        "parameters": recipe.model_dump(exclude=set(recipe.architecture)),
    }
    save_network(stage.outputs, network, recipe.architecture, record)
    stage.outputs.write_csv(EPOCHS, COLUMNS, rows)
    stage.outputs.write_json(METRICS, metrics)
