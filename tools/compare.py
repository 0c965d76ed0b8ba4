"""Is the difference between two commits' accuracies real, or chance on so few images?

python -m tools.compare main              # the workspace against main
python -m tools.compare main my-branch    # one commit against another
"""

import argparse
import csv
import json
import sys
from contextlib import nullcontext
from typing import NamedTuple

from dvc.repo import Repo
from dvc.repo.brancher import switch
from scipy.stats import binomtest

from tools.output import one_line, run_tool

PREDICTIONS = "metrics/predictions.csv"
WORKSPACE = "workspace"


class Predictions(NamedTuple):
    """The actual and the predicted class of each test image, in the order of the test set."""

    revision: str
    actual: list[str]
    predicted: list[str]


def read_predictions(revision: str) -> Predictions:
    """Read a revision's predictions through DVC, from Git, the cache or the remote.

    Raises:
        ValueError: there is no such revision, or it has no predictions.
    """
    try:
        with Repo() as repo, nullcontext() if revision == WORKSPACE else switch(repo, revision):
            # In DVC's view of the files, the root is the folder of .dvc, also below Git's.
            text = repo.dvcfs.read_text(PREDICTIONS)
    except Exception as error:  # of DVC, scmrepo, dulwich, pygit2: any
        raise ValueError(f"{revision}: {one_line(error)}") from None
    rows = list(csv.DictReader(text.splitlines()))
    try:
        actual, predicted = ([row[column] for row in rows] for column in ("actual", "predicted"))
    except KeyError:
        raise ValueError(
            f"{revision}: {PREDICTIONS} has no columns actual and predicted; run `dvc repro`"
        ) from None
    return Predictions(revision, actual, predicted)


def compare(before: Predictions, after: Predictions) -> dict:
    """Compare two networks on the same N images.

    `accuracy` is in [0, 1], with Wilson's 95 % interval (1927). `disagree` counts the images with
    different predictions. `p_value` is that of the exact McNemar test (1947): if both networks were
    equally good, an image that only one of them classifies correctly would be either's with
    probability 1/2.

    Raises:
        ValueError: they were not evaluated on the same images, or on none.
    """
    if not before.actual or before.actual != after.actual:
        raise ValueError(
            f"{before.revision} and {after.revision} were not evaluated on the same images "
            f"({len(before.actual):,} and {len(after.actual):,}): compare commits whose `prepare` "
            "parameters give the same test set"
        )
    images = list(zip(before.actual, before.predicted, after.predicted, strict=True))
    only_before = sum(old == actual != new for actual, old, new in images)
    only_after = sum(old != actual == new for actual, old, new in images)
    discordant = only_before + only_after
    sides = {"before": _accuracy(before), "after": _accuracy(after)}
    return sides | {
        "images": len(images),
        "difference": (only_after - only_before) / len(images),
        "disagree": sum(old != new for _, old, new in images),
        "correct_only_before": only_before,
        "correct_only_after": only_after,
        "p_value": float(binomtest(only_after, discordant).pvalue) if discordant else 1.0,
    }


def _accuracy(predictions: Predictions) -> dict:
    count = len(predictions.actual)
    correct = sum(map(str.__eq__, predictions.actual, predictions.predicted))
    return {
        "revision": predictions.revision,
        "accuracy": correct / count,
        "interval": list(interval(correct, count)),
    }


def interval(correct: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval (1927) of an accuracy: of `correct` among `count` images."""
    low, high = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def verdict(p_value: float) -> str:
    """Return what a p-value says of a difference, at the usual limit."""
    return "unlikely by chance alone" if p_value < 0.05 else "chance can explain this"


def to_markdown(comparison: dict) -> str:
    """Return a comparison as Markdown, for the terminal and for pull requests."""
    lines = ["| revision | test accuracy | 95 % interval |", "|---|--:|:-:|"]
    for side in (comparison["before"], comparison["after"]):
        interval = "{:.2%} to {:.2%}".format(*side["interval"])
        lines.append(f"| {side['revision']} | {side['accuracy']:.2%} | {interval} |")
    p_value = comparison["p_value"]
    before, after = comparison["correct_only_before"], comparison["correct_only_after"]
    both_wrong = comparison["disagree"] - before - after
    return "\n".join(
        [
            *lines,
            "",
            f"Difference: {100 * comparison['difference']:+.2f} percentage points.",
            f"Predictions differ on {comparison['disagree']:,} of {comparison['images']:,} images: "
            f"{before:,} correct only before, {after:,} correct only after, {both_wrong:,} wrong "
            "both times.",
            f"Exact McNemar p-value: {p_value:.2g} ({verdict(p_value)}).",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", help="a commit, branch or tag")
    parser.add_argument("after", nargs="?", default=WORKSPACE, help="another (the workspace)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument(
        "--fail-below",
        type=float,
        metavar="DROP",
        help="exit with 1 if the accuracy is lower by more than DROP (0.005 is half a point)",
    )
    options = parser.parse_args()
    try:
        comparison = compare(read_predictions(options.before), read_predictions(options.after))
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    print(json.dumps(comparison, indent=2) if options.json else to_markdown(comparison))
    drop = -comparison["difference"]
    if options.fail_below is not None and drop > options.fail_below:
        sys.exit(f"error: accuracy fell by {drop:.4f}, --fail-below allows {options.fail_below}")


if __name__ == "__main__":
    run_tool(main)
