"""Is the difference between two commits' accuracies real, or what chance gives on as many images?

python tools/compare.py main              # the workspace against main
python tools/compare.py main my-branch    # one commit against another
"""

import argparse
import csv
import json
import os
import sys
from typing import NamedTuple

import dvc.api
from dvc.exceptions import DvcException
from scipy.stats import binomtest
from scmrepo.exceptions import SCMError

PREDICTIONS = "metrics/predictions.csv"
WORKSPACE = "workspace"


class Predictions(NamedTuple):
    """What one revision's network said of each test image: names of classes, in the set's order."""

    revision: str
    actual: list[str]
    predicted: list[str]


def read_predictions(revision: str) -> Predictions:
    """Read a revision's predictions through DVC, from Git, the cache or the remote.

    Raises:
        ValueError: there is no such revision, or it has no predictions.
    """
    try:
        text = dvc.api.read(PREDICTIONS, rev=None if revision == WORKSPACE else revision)
        rows = list(csv.DictReader(text.splitlines()))
        actual, predicted = ([row[column] for row in rows] for column in ("actual", "predicted"))
    except (DvcException, SCMError, OSError) as error:
        raise ValueError(f"{revision}: {' '.join(str(error).split())}") from None
    except KeyError:
        raise ValueError(
            f"{revision}: {PREDICTIONS} has no columns actual and predicted; run `dvc repro`"
        ) from None
    return Predictions(revision, actual, predicted)


def compare(before: Predictions, after: Predictions) -> dict:
    """Compare two networks on the same N images.

    `accuracy` is in [0, 1], with Wilson's 95 % interval. `disagree` counts the images of which they
    say different classes. `p_value` is that of the exact McNemar test (1947): were both networks
    equally good, an image that only one of them gets right would be either's with probability 1/2.

    Raises:
        ValueError: they were not evaluated on the same images, or on none.
    """
    if not before.actual or before.actual != after.actual:
        raise ValueError(
            f"{before.revision} and {after.revision} were not evaluated on the same images "
            f"({len(before.actual):,} and {len(after.actual):,}): compare commits whose `prepare` "
            "parameters give the same test set"
        )
    right = [
        [actual == predicted for actual, predicted in zip(one.actual, one.predicted, strict=True)]
        for one in (before, after)
    ]
    only_before = sum(old and not new for old, new in zip(*right, strict=True))
    only_after = sum(new and not old for old, new in zip(*right, strict=True))
    discordant = only_before + only_after
    return {
        "images": len(before.actual),
        "before": {"revision": before.revision} | _accuracy(right[0]),
        "after": {"revision": after.revision} | _accuracy(right[1]),
        "difference": (sum(right[1]) - sum(right[0])) / len(before.actual),
        "disagree": sum(a != b for a, b in zip(before.predicted, after.predicted, strict=True)),
        "right_only_before": only_before,
        "right_only_after": only_after,
        "p_value": binomtest(only_after, discordant).pvalue if discordant else 1.0,
    }


def _accuracy(right: list[bool]) -> dict:
    interval = binomtest(sum(right), len(right)).proportion_ci(0.95, method="wilson")
    return {"accuracy": sum(right) / len(right), "interval": [interval.low, interval.high]}


def to_text(comparison: dict) -> str:
    """Write a comparison for people."""
    rows = _rows(comparison)
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [
        f"{revision:<{widths[0]}}  {accuracy:>{widths[1]}}  {interval}"
        for revision, accuracy, interval in rows
    ]
    return "\n".join([*lines, *_sentences(comparison)])


def to_markdown(comparison: dict) -> str:
    """Write a comparison as Markdown, for a pull request."""
    lines = ["| revision | test accuracy | 95 % interval |", "|---|--:|:-:|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(comparison)]
    return "\n".join([*lines, "", *_sentences(comparison)])


def _rows(comparison: dict) -> list[tuple[str, str, str]]:
    return [
        (
            side["revision"],
            f"{side['accuracy']:.2%}",
            "{:.2%} to {:.2%}".format(*side["interval"]),
        )
        for side in (comparison["before"], comparison["after"])
    ]


def _sentences(comparison: dict) -> list[str]:
    p_value = comparison["p_value"]
    verdict = "chance alone would hardly give this" if p_value < 0.05 else "chance can give this"
    before, after = comparison["right_only_before"], comparison["right_only_after"]
    return [
        f"Difference: {100 * comparison['difference']:+.2f} percentage points.",
        f"They disagree on {comparison['disagree']:,} of {comparison['images']:,} images: "
        f"{before:,} are right only before, {after:,} only after, and "
        f"{comparison['disagree'] - before - after:,} wrong in different ways.",
        f"Exact McNemar p-value: {p_value:.2g} ({verdict}).",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", help="a commit, branch or tag")
    parser.add_argument("after", nargs="?", default=WORKSPACE, help="another (the workspace)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--md", action="store_true", help="print Markdown")
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
    if options.json:
        print(json.dumps(comparison, indent=2))
    else:
        print(to_markdown(comparison) if options.md else to_text(comparison))
    drop = -comparison["difference"]
    if options.fail_below is not None and drop > options.fail_below:
        print(
            f"error: accuracy fell by {drop:.4f}, --fail-below allows {options.fail_below}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
