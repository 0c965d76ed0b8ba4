"""Train the network by the chosen recipe, watching the validation set."""

if __name__ == "__main__":
    from stages.runtime.runner import run

    run("stages.train")

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from stages.networks.checkpoint import save_network, sha256
from stages.networks.registry import build
from stages.runtime.config import PARAMS, lookup
from stages.runtime.errors import UserError
from stages.runtime.inputs import Inputs
from stages.runtime.outputs import Outputs, all_or_none
from stages.runtime.processes import is_child
from stages.runtime.splits import TRAIN, VALIDATION, Split, load_split
from stages.training import fast_mlp, launch
from stages.training.device import compute_deterministically, own_threads, pick_device, processor
from stages.training.fast_mlp import FastMLP
from stages.training.initial_weights import NONE, copy_weights, freeze, read_weights
from stages.training.loop import Loop
from stages.training.metrics import (
    NAMES,
    Results,
    best,
    check_finite,
    describe,
    unsure_below,
    validate,
)
from stages.training.parallel import Group, join
from stages.training.randomness import UnseededError, draw_from, no_global_generators
from stages.training.recipe import Recipe, TrainParams, check_choice
from stages.training.resume import Checkpoint, decode

RESULTS = Path("metrics/train.json")
EPOCHS = Path("metrics/epochs.csv")


def main(inputs: Inputs, outputs: Outputs) -> None:
    params = inputs.section("train", TrainParams)
    check_choice(params.recipe, lookup(inputs.params, "recipes"))
    recipe = inputs.section(f"recipes.{params.recipe}", Recipe)
    if launch.is_requested():
        launch.launch()
    device = pick_device(params.device)
    if recipe.precision != "float32" and device.type == "cpu":
        raise UserError(
            f"{PARAMS}: recipes.{params.recipe}.precision: {recipe.precision} is for GPUs: use "
            "float32, or set train.device"
        )
    fingerprint = inputs.fingerprint | {"device": device.type, "processor": processor(device)}
    with join(fingerprint, own_threads(device), device) as group:
        if group.main and group.size > recipe.shards:
            print(f"note: the recipe's `shards` is {recipe.shards}: more processes are no faster")
        checkpoint = Checkpoint(fingerprint) if group.main else None
        train(inputs, outputs, params, recipe, device, group, checkpoint)


def train(  # noqa: PLR0913, PLR0917
    inputs: Inputs,
    outputs: Outputs,
    params: TrainParams,
    recipe: Recipe,
    device: torch.device,
    group: Group,
    checkpoint: Checkpoint | None,
) -> None:
    """Train in a group of processes, of which the main one writes the outputs and has a checkpoint."""
    training = load_split(TRAIN, inputs)
    validation = load_split(VALIDATION, inputs, training.dataset)
    key = f"recipes.{params.recipe}"
    compute_deterministically()
    network, origin = initialise(inputs, params, recipe, training, device)
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kind = FastMLP if fast_mlp.fits(network, recipe, device) else Loop
    recipe = choose_epochs(recipe, key, training, validation, quiet=checkpoint is None)
    with refusal_of(key), no_global_generators(device):
        trainer = kind(network, training, recipe, params.seed, group)

    epochs: list[Results] = []
    kept: dict[str, torch.Tensor] = {}  # the weights of the best epoch
    if saved := group.share(checkpoint and checkpoint.load()):
        state = decode(saved)
        epochs, kept = state["epochs"], state["kept"]
        network.load_state_dict(state["network"])
        trainer.load_state_dict(state["trainer"])
        if checkpoint:
            print(f"Resuming after epoch {len(epochs)}, from a checkpoint", flush=True)
    started, first = time.monotonic(), len(epochs)
    for epoch in range(first + 1, recipe.epochs + 1):
        if recipe.patience and len(epochs) - best(epochs) >= recipe.patience:
            break
        with no_global_generators(device):
            results = {"train": trainer.epoch(epoch)}
        inputs.check(quick=True)
        if len(validation):
            results["validation"] = validate(network, validation, group)
        check_finite(network, results, recipe.optimizer, key)
        epochs.append(results)
        if recipe.keep == "best" and best(epochs) == epoch:
            kept = {name: value.clone() for name, value in network.state_dict().items()}
        if checkpoint:
            left = time_left(started, epoch - first, recipe.epochs - epoch)
            print(f"Epoch {epoch}: {describe(results)}{left}", flush=True)
            # Published at once, for `dvc plots show` and others that look at a running training.
            with all_or_none() as current:
                write_results(current, epochs, recipe.keep)
            state = {"network": network.state_dict(), "trainer": trainer.state_dict()}
            checkpoint.save(state | {"epochs": epochs, "kept": kept})
    if recipe.keep == "best":
        network.load_state_dict(kept)
        if checkpoint:
            print(f"Keeping epoch {best(epochs)}: its validation loss is the lowest")
    unsure = unsure_below(network, validation, group)
    group.agree()
    if not checkpoint:
        return

    record = {
        "dataset": training.dataset,
        "images": len(training),
        **params.model_dump(exclude={"initial_weights"}) | {"device": device.type} | origin,
        "parameters": recipe.model_dump(exclude={"network"}, exclude_unset=True),
        "unsure_below": unsure,
    }
    save_network(outputs, network, recipe.network, training.shape, record)
    write_results(outputs, epochs, recipe.keep)
    outputs.afterwards(checkpoint.remove)


def initialise(
    inputs: Inputs, params: TrainParams, recipe: Recipe, training: Split, device: torch.device
) -> tuple[nn.Module, dict]:
    """Return the network with its initial weights, and what the record says of their file, if any.

    Raises:
        UserError: the network does not fit the images, or the file does not fit the network.
    """
    key, path = f"recipes.{params.recipe}", Path(params.initial_weights)
    rng = torch.Generator().manual_seed(params.seed)
    with refusal_of(f"{key}.network"), no_global_generators(device), draw_from(rng):
        network = build(recipe.network, training.shape, len(training.classes))
    if path == NONE:
        if recipe.freeze:
            raise UserError(
                f"{PARAMS}: {key}.freeze: true would keep random weights; set train.initial_weights to "
                "a file of weights, or freeze: false"
            )
        return network, {}
    content = inputs.read(path)
    random = copy_weights(network, read_weights(content, path), path)
    if recipe.freeze:
        freeze(network)
    if not is_child():
        print(f"Starting from {path}; random: {', '.join(random) or 'nothing'}", flush=True)
    origin = {"file": str(path), "sha256": sha256(content), "random": random}
    return network, {"initial_weights": origin}


def choose_epochs(
    recipe: Recipe, key: str, training: Split, validation: Split, quiet: bool
) -> Recipe:
    """Return the recipe with the epochs that its `min_steps` asks for; report if these are more.

    Raises:
        UserError: the recipe, at `key` in params.yaml, needs a validation set, which is empty.
    """
    with refusal_of(key):
        chosen = recipe.for_images(len(training), len(validation))
    if chosen.epochs > recipe.epochs and not quiet:
        print(
            f"{PARAMS}: {key}.min_steps: {recipe.min_steps} steps take {chosen.epochs} epochs of "
            f"{len(training):,} images, more than {key}.epochs: {recipe.epochs}",
            flush=True,
        )
    return chosen


def time_left(started: float, done: int, left: int) -> str:
    """Return the end of an epoch's line: how long the epochs that are left take, if a minute or more.

    So many are `done` since the time `started`.
    """
    seconds = (time.monotonic() - started) / done * left
    return f" ({tqdm.format_interval(seconds)} left)" if seconds >= 60 else ""


def write_results(outputs: Outputs, epochs: list[Results], keep: str) -> None:
    """Write the results of each epoch, and those of the one whose weights are kept."""
    outputs.write_json(RESULTS, epochs[best(epochs) - 1 if keep == "best" else -1])
    columns = [(split, name) for split in ("train", "validation") for name in NAMES]
    rows = (
        [number, *(results.get(split, {}).get(name) for split, name in columns)]
        for number, results in enumerate(epochs, start=1)
    )
    outputs.write_csv(EPOCHS, ("epoch", *map("_".join, columns)), rows)


@contextmanager
def refusal_of(key: str) -> Iterator[None]:
    """Report in one line, which names `key` in params.yaml, that the block cannot use the recipe.

    Raises:
        UserError: the block has raised a ValueError or an UnseededError.
    """
    try:
        yield
    except (ValueError, UnseededError) as error:
        raise UserError(f"{PARAMS}: {key}: {error}") from None
