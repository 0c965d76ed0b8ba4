"""The test accuracy of a recipe, not of one run: its mean over experiments that differ in their seeds.

python -m tools.seeds wide           # of wide-1, wide-2, … that `make seeds GROUP=wide` has run
python -m tools.seeds narrow wide    # and of another recipe; is wide better?
"""

import argparse
import re
from math import sqrt
from statistics import mean, stdev
from typing import NamedTuple

import dvc.api
from dvc.exceptions import DvcException
from dvc.repo import Repo
from scipy import stats

from tools.compare import verdict
from tools.output import one_line, run_tool

METRICS = "metrics/evaluate.json"


class Group(NamedTuple):
    """Experiments that differ in their seeds, and their test accuracies in [0, 1]."""

    name: str
    accuracies: list[float]


def read_group(name: str) -> Group:
    """Read the experiments NAME-1, NAME-2, … on the current commit: on others, the code may differ.

    Raises:
        ValueError: there are fewer than two.
    """
    with Repo() as repo:
        experiments = [pair for pairs in repo.experiments.ls().values() for pair in pairs]
    accuracies = [
        dvc.api.metrics_show(METRICS, rev=revision)["accuracy"]
        for experiment, revision in sorted(experiments)
        if re.fullmatch(rf"{re.escape(name)}-\d+", experiment)
    ]
    if len(accuracies) < 2:
        raise ValueError(
            f"{name}: on this commit, experiments named {name}-1, {name}-2, …: {len(accuracies)}; a "
            f"mean needs two or more: run `make seeds GROUP={name}`"
        )
    return Group(name, accuracies)


def to_markdown(*groups: Group) -> str:
    """Return a table of the groups: means, standard deviations, Student's 95 % intervals (1908)."""
    lines = [
        "| experiments | seeds | mean test accuracy | standard deviation | 95 % interval |",
        "|---|--:|--:|--:|:-:|",
    ]
    for name, accuracies in groups:
        seeds, centre, deviation = len(accuracies), mean(accuracies), stdev(accuracies)
        half = stats.t.ppf(0.975, seeds - 1) * deviation / sqrt(seeds)
        lines.append(
            f"| {name} | {seeds} | {centre:.2%} | {100 * deviation:.2f} | {centre - half:.2%} to "
            f"{centre + half:.2%} |"
        )
    return "\n".join(lines)


def to_comparison(before: Group, after: Group) -> str:
    """Return the table of two groups, and whether the difference of their means is significant.

    The test is Welch's (1947): the deviations of the groups may differ.
    """
    for name, accuracies in (before, after):
        if not stdev(accuracies):
            same = (
                f"All seeds of {name} gave the same accuracy, so there is no test; use more seeds."
            )
            return f"{to_markdown(before, after)}\n\n{same}"
    result = stats.ttest_ind(after.accuracies, before.accuracies, equal_var=False)
    low, high = (100 * end for end in result.confidence_interval())
    difference = 100 * (mean(after.accuracies) - mean(before.accuracies))
    return (
        f"{to_markdown(before, after)}\n\nDifference: {difference:+.2f} percentage points (95 % "
        f"interval {low:+.2f} to {high:+.2f}).\nWelch's p-value: {result.pvalue:.2g} "
        f"({verdict(result.pvalue)})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="experiments are NAME-1, NAME-2, …")
    parser.add_argument("other", nargs="?", help="compare with OTHER-1, OTHER-2, …")
    options = parser.parse_args()
    try:
        group = read_group(options.name)
        print(
            to_comparison(group, read_group(options.other)) if options.other else to_markdown(group)
        )
    except (ValueError, DvcException) as error:
        parser.exit(2, f"error: {one_line(error)}\n")


if __name__ == "__main__":
    run_tool(main)
