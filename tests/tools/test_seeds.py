"""`make seeds` and the comparison of two recipes; tests/test_docs.py trains some."""

from statistics import mean

import pytest

from tests.project import Project
from tools.seeds import Group, to_comparison, to_markdown

NARROW = Group("narrow", [0.90, 0.91, 0.92])
WIDE = Group("wide", [0.93, 0.94, 0.95])


def test_a_group_has_a_mean_a_deviation_and_an_interval():
    row = to_markdown(NARROW).splitlines()[2]
    # Student's t of 2 degrees of freedom: 4.3027; 91 ± 4.3027 · 1 / √3
    assert row == "| narrow | 3 | 91.00% | 1.00 | 88.52% to 93.48% |"


def test_the_means_of_two_groups_are_compared():
    *_, difference, verdict = to_comparison(NARROW, WIDE).splitlines()
    # 4 degrees of freedom: 2.7764; 3 ± 2.7764 · √(2 / 3); t = 3.674
    assert difference == "Difference: +3.00 percentage points (95 % interval +0.73 to +5.27)."
    assert verdict == "Welch's p-value: 0.021 (unlikely by chance alone)."
    near = Group("near", [accuracy + 0.005 for accuracy in NARROW.accuracies])
    assert "chance can explain this" in to_comparison(NARROW, near)
    same = Group("same", [0.5, 0.5])
    table, note = to_comparison(NARROW, same).split("\n\n")
    assert "| same | 2 | 50.00% | 0.00 | 50.00% to 50.00% |" in table
    assert note.startswith("All seeds of same gave the same accuracy")
    assert mean(near.accuracies) > mean(NARROW.accuracies)


@pytest.mark.parametrize("names", [["nothing"], ["nothing", "else"]])
def test_names_without_experiments_are_refused_in_one_line(committed: Project, names: list[str]):
    printed = committed.run("python", "-m", "tools.seeds", *names, fails=True)
    assert printed == (
        "error: nothing: on this commit, experiments named nothing-1, nothing-2, …: 0; a mean needs "
        "two or more: run `make seeds GROUP=nothing`\n"
    )
