import json
import subprocess
import sys

import pytest

from tests.project import ROOT, Project
from tools.compare import Predictions, compare, to_markdown

ACTUAL = [str(digit) for digit in range(10)] * 10
COMPARE = ("python", "-m", "tools.compare")


def predictions(revision: str, wrong: range, offset: int = 1) -> Predictions:
    """Return predictions that are wrong, by an offset, on these images only."""
    predicted = [str((int(a) + offset) % 10) if i in wrong else a for i, a in enumerate(ACTUAL)]
    return Predictions(revision, ACTUAL, predicted)


def test_known_counts_give_known_statistics():
    result = compare(predictions("old", range(15)), predictions("new", range(10, 20)))
    assert result["images"] == 100
    assert (result["before"]["accuracy"], result["after"]["accuracy"]) == (0.85, 0.9)
    assert result["difference"] == 0.05
    assert (result["correct_only_before"], result["correct_only_after"]) == (5, 10)
    assert result["disagree"] == 15
    # Two-sided: 2 * sum(comb(15, k) for k in range(6)) / 2**15
    assert result["p_value"] == pytest.approx(0.30175781)
    # Wilson (1927), for 85 of 100
    assert result["before"]["interval"] == pytest.approx([0.76716, 0.90694], abs=1e-5)


def test_images_wrong_both_times_disagree_but_are_no_evidence():
    result = compare(predictions("old", range(2)), predictions("new", range(2), offset=2))
    assert result["disagree"] == 2
    assert (result["correct_only_before"], result["correct_only_after"]) == (0, 0)
    assert result["p_value"] == 1.0


@pytest.mark.parametrize("images", [ACTUAL[1:], []])
def test_other_images_cannot_be_compared(images: list[str]):
    other = Predictions("old", images, images)
    with pytest.raises(ValueError, match="old and old were not evaluated on the same images"):
        compare(other, predictions("old", range(0)) if images else other)


def test_markdown():
    result = compare(predictions("old", range(15)), predictions("a-new-one", range(0)))
    assert to_markdown(result).splitlines() == [
        "| revision | test accuracy | 95 % interval |",
        "|---|--:|:-:|",
        "| old | 85.00% | 76.72% to 90.69% |",
        "| a-new-one | 100.00% | 96.30% to 100.00% |",
        "",
        "Difference: +15.00 percentage points.",
        "Predictions differ on 15 of 100 images: 0 correct only before, 15 correct only after, 0 wrong "
        "both times.",
        "Exact McNemar p-value: 6.1e-05 (unlikely by chance alone).",
    ]


@pytest.mark.slow
def test_the_command_compares_commits_and_fails_below_a_limit(committed: Project):
    committed.edit("params.yaml", "epochs: 10", "epochs: 1")
    committed.repro("evaluate")
    result = json.loads(committed.run(*COMPARE, "main", "--json"))
    for side, text in (
        ("before", committed.run("git", "show", "main:metrics/evaluate.json")),
        ("after", committed.read("metrics/evaluate.json")),
    ):
        assert result[side]["accuracy"] == pytest.approx(json.loads(text)["accuracy"])
    assert result["p_value"] < 1e-6
    assert "| main |" in committed.run("make", "compare", "REV=main")

    output = committed.run(*COMPARE, "main", "--fail-below", "0.005", fails=True)
    assert "error: accuracy fell by 0." in output
    committed.run(*COMPARE, "main", "--fail-below", "0.9")
    committed.run("git", "commit", "--quiet", "--all", "--message=Train less")
    assert "+0.00" in committed.run(*COMPARE, "main")
    committed.run(*COMPARE, "main~1", "main", "--fail-below", "0.005", fails=True)

    # main~2 holds the committed results on MNIST.
    for revision, line in (("main~2", "not evaluated on the same images"), ("nosuch", "nosuch: ")):
        output = committed.run(*COMPARE, revision, fails=True)
        assert output.startswith("error: ")
        assert line in output
        assert output.count("\n") == 1


@pytest.mark.slow
def test_a_project_in_a_subfolder_of_its_repository(committed: Project):
    """DVC's API took the path as one below Git's root."""
    committed.run(
        "sh", "-c", "mv .git .. && cd .. && git add --all . && git commit --quiet -m Move"
    )
    assert "+0.00" in committed.run(*COMPARE, "HEAD")


def test_a_reader_that_ends_first_is_no_traceback():
    """As `| head` does. The revision is that of any clone."""
    with subprocess.Popen(
        [sys.executable, "-m", "tools.compare", "HEAD"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
