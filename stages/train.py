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
from stages.training import feed_forward, launch, loop
from stages.training.parallel import Group, join
from stages.training.resume import Checkpoint, decode
from stages.training.setup import fix_randomness, own_cores, pick_device, processor

METRICS = Path("metrics/train.json")
EPOCHS = Path("metrics/epochs.csv")
COLUMNS = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
VALIDATION_BATCH_SIZE = 250  # bounds memory, and is what threads and processes share


def validate(
    network: nn.Module, validation: Split, classes: int, group: Group
) -> loop.Result | None:
    """Return the network's result on the validation set; None if that is empty."""
    if len(validation) == 0:
        return None
    batches = validation.images.split(VALIDATION_BATCH_SIZE)
    weights = next(network.parameters())

    def compute(number: int, row: torch.Tensor) -> None:
        logits = predict_batches(network, batches[number], VALIDATION_BATCH_SIZE, weights.device)
        row[: logits.numel()] = logits.flatten()

    rows = group.gather(compute, len(batches), weights.new_zeros(VALIDATION_BATCH_SIZE * classes))
    logits = rows.flatten()[: len(validation) * classes].view(-1, classes).cpu()
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
    if launch.is_wanted():
        launch.launch()
    device = pick_device(params.train.device)
    # Dropout is drawn from PyTorch's global generator, of which a process has one.
    threads = 1 if params.recipe.network == "feed_forward" or device.type != "cpu" else own_cores()
    facts = stage.facts | {"device": device.type, "processor": processor(device)}
    with join(facts, params.recipe.shards, threads, device) as group:
        if not group.idle:
            train(stage, params, device, group, facts)


def train(stage: Stage, params: Params, device: torch.device, group: Group, facts: dict) -> None:
    """Train in a group of processes, of which the main one writes the outputs."""
    recipe, seed = params.recipe, params.train.seed
    training, validation = load_split(TRAIN), load_split(VALIDATION)
    fix_randomness(seed)
    network = build(recipe.architecture, len(training.classes)).to(device)
    if recipe.network == "feed_forward" and recipe.shards == 1 and device.type == "cpu":
        trainer = feed_forward.Training(network, training, recipe, seed)
    else:
        trainer = loop.Training(network, training, recipe, seed, group)

    rows = []
    checkpoint = Checkpoint(facts) if group.main else None
    if saved := group.share(checkpoint and checkpoint.load()):
        state = decode(saved)
        rows = state["rows"]
        network.load_state_dict(state["network"])
        trainer.load_state_dict(state["trainer"])
        if group.main:
            print(f"Going on after epoch {len(rows)}, from a checkpoint", flush=True)
    for epoch in range(len(rows) + 1, recipe.epochs + 1):
        result = trainer.epoch(epoch)
        stage.check_inputs()
        validated = validate(network, validation, len(training.classes), group)
        line = f"Epoch {epoch}: train loss {result.loss:.6f}"
        if validated:
            line += f", validation accuracy {validated.accuracy:.2%}"
            line += f", validation loss {validated.loss:.6f}"
        check_finite(network, [part.loss for part in (result, validated) if part], epoch, params)
        rows.append((epoch, *result, *(validated or (None, None))))
        if group.main:
            print(line, flush=True)
            state = {"network": network.state_dict(), "trainer": trainer.state_dict()}
            checkpoint.save(state | {"rows": rows})
    group.agree()
    if not group.main:
        return

    metrics = {"train": loop.Result(*rows[-1][1:3])._asdict()}
    if len(validation):
        metrics["validation"] = loop.Result(*rows[-1][3:])._asdict()
    record = {
        "dataset": training.dataset,
        "images": len(training),
        **params.train.model_dump() | {"device": device.type},
        "parameters": recipe.model_dump(exclude=set(recipe.architecture)),
    }
    save_network(stage.outputs, network, recipe.architecture, record)
    stage.outputs.write_csv(EPOCHS, COLUMNS, rows)
    stage.outputs.write_json(METRICS, metrics)
    stage.outputs.afterwards(checkpoint.remove)
