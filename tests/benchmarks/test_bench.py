import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import pictures, scaling
from benchmarks.bench import NAMES, table
from benchmarks.measuring import star
from stages.exporting.formats import FORMATS
from tests.project import ROOT, clean_environment

FOLDER = ROOT / "benchmarks"


@pytest.mark.slow
def test_a_quick_round_measures_every_contender(tmp_path: Path):
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", "--quick", "--output", tmp_path],
        cwd=ROOT,
        env=clean_environment(tmp_path),
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    for name in NAMES.keys() - {"thorough"}:
        assert min(results[name][key] for key in ("seconds_per_epoch", "cpu_seconds_per_epoch")) > 0
        assert results[name]["peak_mib"] > 50
        if name != "products":
            assert 0.1 < results[name]["accuracy"] < 1
    cold, noop, bare = (results["pipeline"][name] for name in ("cold", "noop", "bare_noop"))
    assert cold["seconds"] > noop["seconds"] > 0
    assert min(cold["cpu_seconds"], bare["seconds"]) > 0
    assert set(results["memory"]["peaks"]["train"]) == {"once", "enlarged"}
    assert set(results["formats"]) == {form.name for form in FORMATS}
    assert all(times["1"] > times["256"] > 0 for times in results["formats"].values())
    assert results["predict"]["images"] == 300
    assert results["memory"]["times"] == 2
    title = NAMES["published"] + star(results["published"])
    assert f"| {title} |" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("name", ["results.md", "pictures.md"])
def test_the_docs_quote_the_committed_results(name: str):
    page = (ROOT / "docs/recipes-and-results.md").read_text()
    assert (FOLDER / name).read_text().strip() in page


def test_the_committed_table_of_hosts_is_that_of_the_committed_results():
    results = json.loads((FOLDER / "scaling.json").read_text())
    assert scaling.table(results) == (FOLDER / "scaling.md").read_text()


def test_the_committed_table_is_that_of_the_committed_results():
    results = json.loads((FOLDER / "results.json").read_text())
    assert table(results) == (FOLDER / "results.md").read_text()


def test_the_committed_table_of_pictures_is_that_of_the_committed_results():
    results = json.loads((FOLDER / "pictures.json").read_text())
    assert pictures.table(results) == (FOLDER / "pictures.md").read_text()
