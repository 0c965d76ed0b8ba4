"""The results of each epoch. To add a metric: a name in METRICS."""

import math

import torch
from torch import Tensor, nn

from stages.networks.inference import correct, mean_loss, predict_batches
from stages.runtime.config import PARAMS
from stages.runtime.errors import UserError
from stages.runtime.splits import Split
from stages.training.optimizers import Optimizer
from stages.training.parallel import Group

# In addition to the loss: of logits [n, classes] and labels [n], a value for each image.
METRICS = {"accuracy": correct}
NAMES = ("loss", *METRICS)
UNSURE = 0.05  # of the correct predictions
VALIDATION_BATCH_SIZE = 250  # bounds memory; threads and processes share these batches

Results = dict[str, dict[str, float]]  # of an epoch: means over the images, by split and name


def totals(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sums over n images of their losses and of METRICS, float32 [1 + len(METRICS)].

    `loss` is the first of them, float32 [].
    """
    loss, logits = loss.detach(), logits.detach()
    return torch.stack([loss, *(metric(logits, labels).sum() for metric in METRICS.values())])


def means(total: Tensor, images: int) -> dict[str, float]:
    """Return the means of `totals` over so many images, by their names."""
    return {name: value / images for name, value in zip(NAMES, total.tolist(), strict=True)}


def validate(network: nn.Module, validation: Split, group: Group) -> dict[str, float]:
    """Return the network's results on the validation set, averaged in float64."""
    logits = predict(network, validation, group)
    results = {"loss": mean_loss(logits, validation.labels)}
    for name, metric in METRICS.items():
        results[name] = metric(logits, validation.labels).double().mean().item()
    return results


def unsure_below(network: nn.Module, validation: Split, group: Group) -> float | None:
    """Return the probability that 95 in 100 correct predictions reach; None: too few are known.

    Less probable predictions are called unsure: most of the wrong ones, and many for images of no
    class.
    """
    if not len(validation):
        return None
    logits = predict(network, validation, group)
    probabilities = logits.softmax(dim=1).amax(dim=1)[correct(logits, validation.labels)]
    unsure = int(UNSURE * len(probabilities))
    if not unsure:
        return None
    lowest = probabilities.sort().values[unsure].item()
    return math.floor(lowest * 10_000) / 10_000  # not rounded to 1, which none reaches


def predict(network: nn.Module, validation: Split, group: Group) -> Tensor:
    """Return the logits of the validation set, float32 [N, classes], which the group computes."""
    batches, classes = validation.images.split(VALIDATION_BATCH_SIZE), len(validation.classes)
    weights = next(network.parameters())

    def compute(number: int, row: Tensor) -> None:
        logits = predict_batches(network, batches[number], VALIDATION_BATCH_SIZE, weights.device)
        row[: logits.numel()] = logits.flatten()

    rows = group.gather(compute, len(batches), weights.new_zeros(VALIDATION_BATCH_SIZE * classes))
    return rows.flatten()[: len(validation) * classes].view(-1, classes).cpu()


def best(epochs: list[Results]) -> int:
    """Return the number, from 1, of the first epoch with the lowest validation loss; 0 of none."""
    losses = [results["validation"]["loss"] for results in epochs]
    return losses.index(min(losses)) + 1 if losses else 0


def check_finite(network: nn.Module, results: Results, optimizer: Optimizer, key: str) -> None:
    """Refuse a training whose losses or weights have become infinite or NaN.

    Raises:
        UserError: they have; the line names the learning rate of the recipe at `key` in params.yaml.
    """
    losses = [result["loss"] for result in results.values()]
    finite = all(weights.isfinite().all() for weights in network.parameters())
    if not (finite and all(map(math.isfinite, losses))):
        raise UserError(
            f"{PARAMS}: {key}.optimizer.learning_rate: {optimizer.learning_rate} led to losses of "
            f"{losses} and to weights that are {'' if finite else 'not '}finite; use a smaller one, or "
            "a smaller weight_decay"
        )


def describe(results: Results) -> str:
    """Return an epoch's results as part of a line."""
    return ", ".join(
        f"{split} {name} {value:.4f}" for split in results for name, value in results[split].items()
    )
