import json
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, clean_environment

FOLDER = ROOT / "benchmarks"


def test_a_quick_round_measures_every_contender(tmp_path: Path):
    subprocess.run(
        [sys.executable, FOLDER / "bench.py", "--quick", "--output", tmp_path],
        env=clean_environment(tmp_path),
        check=True,
        capture_output=True,
    )
    results = json.loads((tmp_path / "results.json").read_text())
    for name in ("tutorial", "train", "sklearn", "products", "fast", "convolutional"):
        assert results[name]["seconds_per_epoch"] > 0
        assert results[name]["peak_mib"] > 100
        if name != "products":
            assert 0.1 < results[name]["accuracy"] < 1
    assert results["pipeline"]["cold"] > results["pipeline"]["noop"] > 0
    assert results["pipeline"]["bare_noop"] > 0
    assert set(results["memory"]["peaks"]["train"]) == {"once", "enlarged"}
    assert set(results["formats"]) == {"torchscript", "pt2", "onnx", "int8"}
    assert all(times["1"] > times["256"] > 0 for times in results["formats"].values())
    assert results["predict"]["images"] == 300
    assert results["memory"]["times"] == 2
    table = (tmp_path / "results.md").read_text()
    assert "| (a) the tutorial as published |" in table


def test_the_readme_quotes_the_last_results():
    assert (FOLDER / "results.md").read_text().strip() in (ROOT / "README.md").read_text()


def test_the_committed_table_is_that_of_the_committed_results():
    sys.path.insert(0, str(FOLDER))
    try:
        from bench import table
    finally:
        sys.path.remove(str(FOLDER))
    results = json.loads((FOLDER / "results.json").read_text())
    assert table(results) == (FOLDER / "results.md").read_text()
