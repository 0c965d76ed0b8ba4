import json
import subprocess
import sys

import pytest

from tests.project import ROOT, Project
from tools.compare import Predictions, compare, to_markdown, to_text

ACTUAL = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 10


def predictions(revision: str, wrong: set[int], said: int = 1) -> Predictions:
    predicted = [(a + said) % 10 if i in wrong else a for i, a in enumerate(ACTUAL)]
    return Predictions(revision, [*map(str, ACTUAL)], [*map(str, predicted)])


def test_known_counts_give_known_statistics():
    result = compare(predictions("old", set(range(15))), predictions("new", set(range(10, 20))))
    assert result["images"] == 100
    assert (result["before"]["accuracy"], result["after"]["accuracy"]) == (0.85, 0.9)
    assert result["difference"] == 0.05
    assert (result["right_only_before"], result["right_only_after"]) == (5, 10)
    assert result["disagree"] == 15
    # Two-sided: 2 * sum(comb(15, k) for k in range(6)) / 2**15
    assert result["p_value"] == pytest.approx(0.30175781)
    # Wilson (1927), for 85 of 100
    assert result["before"]["interval"] == pytest.approx([0.76716, 0.90694], abs=1e-5)


def test_images_that_both_get_wrong_in_another_way_are_a_disagreement_but_no_evidence():
    result = compare(predictions("old", {1, 2}, said=1), predictions("new", {1, 2}, said=2))
    assert result["disagree"] == 2
    assert (result["right_only_before"], result["right_only_after"]) == (0, 0)
    assert result["p_value"] == 1.0


def test_other_images_cannot_be_compared():
    other = Predictions("new", ACTUAL[1:], ACTUAL[1:])
    with pytest.raises(ValueError, match="old and new were not evaluated on the same images"):
        compare(predictions("old", set()), other)
    with pytest.raises(ValueError, match="not evaluated on the same images"):
        compare(Predictions("old", [], []), Predictions("new", [], []))


def test_what_people_read():
    result = compare(predictions("old", set(range(15))), predictions("a-new-one", set()))
    assert to_text(result).splitlines() == [
        "old         85.00%  76.72% to 90.69%",
        "a-new-one  100.00%  96.30% to 100.00%",
        "Difference: +15.00 percentage points.",
        "They disagree on 15 of 100 images: 0 are right only before, 15 only after, and "
        "0 wrong in different ways.",
        "Exact McNemar p-value: 6.1e-05 (chance alone would hardly give this).",
    ]
    assert to_markdown(result).splitlines()[:4] == [
        "| revision | test accuracy | 95 % interval |",
        "|---|--:|:-:|",
        "| old | 85.00% | 76.72% to 90.69% |",
        "| a-new-one | 100.00% | 96.30% to 100.00% |",
    ]


@pytest.fixture
def worse(committed: Project) -> Project:
    """Digits are committed on main; the workspace holds a network that was trained for an epoch."""
    committed.edit("params.yaml", "epochs: 10", "epochs: 1")
    committed.repro()
    return committed


@pytest.mark.slow
def test_the_command_compares_commits_and_serves_as_a_gate(worse: Project):
    script = ("python", "tools/compare.py")
    result = json.loads(worse.run(*script, "main", "--json"))
    committed = json.loads(worse.run("git", "show", "main:metrics/evaluate.json"))
    assert result["before"]["accuracy"] == pytest.approx(committed["accuracy"])
    assert result["after"]["accuracy"] == pytest.approx(
        json.loads(worse.read("metrics/evaluate.json"))["accuracy"]
    )
    assert result["p_value"] < 1e-6
    assert "| main |" in worse.run(*script, "main", "--md")
    assert "main " in worse.run("make", "compare", "REV=main")

    output = worse.run(*script, "main", "--fail-below", "0.005", fails=True)
    assert "error: accuracy fell by 0." in output
    worse.run(*script, "main", "--fail-below", "0.9")
    worse.run("git", "commit", "--quiet", "--all", "--message=Train less")
    assert "+0.00" in worse.run(*script, "main")
    worse.run(*script, "main~1", "main", "--fail-below", "0.005", fails=True)

    # main~2 holds the committed results on MNIST.
    for revision, line in (("main~2", "not evaluated on the same images"), ("nosuch", "nosuch: ")):
        output = worse.run(*script, revision, fails=True)
        assert output.startswith("error: ")
        assert line in output
        assert output.count("\n") == 1


def test_help_says_what_it_does():
    command = [sys.executable, ROOT / "tools/compare.py", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Is the difference between two commits' accuracies real" in output


@pytest.mark.slow
def test_a_reader_that_has_read_enough_ends_it_quietly(committed: Project):
    command = "python tools/compare.py main --json | head -1"
    assert committed.run("sh", "-c", command) == "{\n"
