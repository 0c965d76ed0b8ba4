"""The whole pipeline, by the commands that people use, in fresh clones."""

import csv
import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from pathspec import GitIgnoreSpec
from ruamel.yaml import YAML

from tests.project import (
    MIRROR,
    ROOT,
    Project,
    Running,
    executed,
    fresh_clone,
    lend_environment,
    needs_mnist,
)

STAGES = ["prepare", "train", "evaluate", "export"]
RESULTS = [
    "data/prepared/train.safetensors",
    "data/prepared/validation.safetensors",
    "data/prepared/test.safetensors",
    "models/model_weights.pth",
    "models/network.json",
    "models/model.pth",
    "models/model.pt2",
    "models/model.onnx",
    "models/model.int8.onnx",
    "models/model.safetensors",
    "models/config.json",
    "models/README.md",
    "metrics/train.json",
    "metrics/epochs.csv",
    "metrics/evaluate.json",
    "metrics/per_class.csv",
    "metrics/predictions.csv",
    "metrics/calibration.csv",
    "metrics/confusions.csv",
    "metrics/mistakes.csv",
    "metrics/mistakes.svg",
    "metrics/export.json",
]


def test_make_run_without_mnist_runs_on_the_digits(on_digits: tuple[Project, str]):
    project, output = on_digits
    reason = "mnist: train-images-idx3-ubyte.gz is not available from /nowhere/mnist ("
    assert output.count(f"error: {reason}") == output.count("is not available") == 1  # asked once
    assert (
        "!!! mnist could not be downloaded, so the pipeline runs on the embedded digits." in output
    )
    assert executed(output) == STAGES
    assert "These numbers are for the embedded digits, not for mnist. Back to it:" in output
    assert "dvc exp run -S prepare.dataset=mnist" in output
    assert json.loads(project.read("metrics/evaluate.json"))["accuracy"] > 0.9
    assert all((project.folder / result).is_file() for result in RESULTS)


def test_a_run_leaves_no_unknown_files(on_digits: tuple[Project, str]):
    changed = [line.split(maxsplit=1) for line in on_digits[0].git_status().splitlines()]
    assert all(
        state == "M" and (path in ("dvc.lock", "params.yaml") or path.startswith("metrics/"))
        for state, path in changed
    ), changed


def test_the_digits_change_nothing_but_the_parameter(on_digits: tuple[Project, str]):
    project, _ = on_digits
    texts = project.run("git", "show", "HEAD:params.yaml"), project.read("params.yaml").decode()
    before, after = map(YAML(typ="safe").load, texts)  # DVC breaks long lines
    assert after == before | {"prepare": before["prepare"] | {"dataset": "digits"}}
    comments, still = (re.findall("#.*", text) for text in texts)
    assert still == comments


def test_a_second_run_executes_nothing(reproduced: Project):
    assert reproduced.repro() == []
    assert executed(reproduced.run("make", "run")) == []


def test_the_curves_grow_while_a_training_runs_and_stay_if_it_is_killed(
    committed: Project, tmp_path: Path
):
    committed.edit(
        "params.yaml", "epochs: 10\n    batch_size: 32", "epochs: 99999\n    batch_size: 32"
    )
    running = Running(committed, "dvc", "repro")
    watching = Running(committed, "python", "-m", "tools.plots", "--watch", "--out", str(tmp_path))
    try:
        running.wait_for("Epoch 3: ")
        watching.wait_for("index.html")
        page = tmp_path / "index.html"
        shown, deadline = page.read_bytes(), time.monotonic() + 60
        plots = committed.run("dvc", "plots", "show", "metrics/epochs.csv", "--json")
        changes = committed.run("dvc", "metrics", "diff", "--json")
        while page.read_bytes() == shown and time.monotonic() < deadline:
            time.sleep(0.1)
        assert page.read_bytes() != shown, watching.output()
    finally:
        for each in (watching, running):
            os.killpg(each.process.pid, signal.SIGKILL)
            each.end(fails=True)
    curves = json.loads(plots)["data"]["metrics/epochs.csv"][0]["content"]["data"]["values"]
    assert int(curves[-1]["epoch"]) >= 3
    assert json.loads(changes)["metrics/train.json"]["train.loss"]["diff"]
    rows = list(csv.DictReader(committed.read("metrics/epochs.csv").decode().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [*range(1, len(rows) + 1)]
    last = json.loads(committed.read("metrics/train.json"))
    assert float(rows[-1]["train_loss"]) == last["train"]["loss"]
    assert not (committed.folder / "models/model_weights.pth").exists()
    status = committed.git_status()
    assert " M metrics/epochs.csv" in status and "dvc.lock" not in status
    committed.run("make", "restore")
    assert committed.git_status() == "" and committed.repro() == []


@pytest.mark.parametrize(
    ("old", "new", "stages"),
    [
        ("# Every number", "# Every single number", []),
        ("learning_rate: 1.0e-3", "learning_rate: 0.001", []),
        pytest.param(
            "seed: 0                 # draws the validation",
            "seed: 1  # draws the validation",
            STAGES,
            marks=pytest.mark.slow,
        ),
        ("batch_size: 1000   ", "batch_size: 100   ", ["evaluate"]),
    ],
)
def test_a_change_executes_its_stages_and_its_undoing_none(
    reproduced: Project, old: str, new: str, stages: list[str]
):
    params, lock = reproduced.read("params.yaml"), reproduced.read("dvc.lock")
    reproduced.edit("params.yaml", old, new)
    assert reproduced.repro() == stages
    (reproduced.folder / "params.yaml").write_bytes(params)
    assert reproduced.repro() == []
    assert reproduced.read("dvc.lock") == lock


@pytest.mark.slow
def test_the_same_parameters_give_the_same_lock_in_any_place_and_environment(
    on_digits: tuple[Project, str], tmp_path: Path
):
    expected = on_digits[0].read("dvc.lock")
    assert b"md5" in expected
    project = fresh_clone(tmp_path / "a folder elsewhere" / "project")
    project.edit("params.yaml", "dataset: mnist", "dataset: digits")
    outputs = {result: on_digits[0].read(result) for result in RESULTS}
    for environment in (
        {"OMP_NUM_THREADS": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
        {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "PYTHONHASHSEED": "7", "UMASK": "077"},
    ):
        umask = environment.pop("UMASK", "022")
        command = f"umask {umask}; exec dvc repro --force"
        output = project.run("sh", "-c", command, **environment)
        assert executed(output) == STAGES
        assert project.read("dvc.lock") == expected
        # Files that DVC does not cache, too.
        assert {result: project.read(result) for result in RESULTS} == outputs


@pytest.mark.slow
def test_make_run_falls_back_only_for_missing_data(project: Project):
    lend_environment(project)
    project.edit("params.yaml", "epochs: 10", "epochs: 0")
    output = project.run("make", "run", MNIST_MIRROR="/nowhere", fails=True)
    assert output.count("error: params.yaml: recipes.tutorial.epochs: 0 is not allowed") == 1
    assert "!!!" not in output
    assert "dataset: mnist" in project.read("params.yaml").decode()


def test_without_mnist_repro_never_changes_the_dataset(project: Project):
    output = project.run("dvc", "repro", MNIST_MIRROR="/nowhere", fails=True)
    assert "set MNIST_MIRROR=<" in output
    assert "dvc exp run -S prepare.dataset=digits" in output
    # DVC removes a stage's outputs before it runs; these are in Git.
    assert project.git_status() == " D metrics/dataset.json\n D metrics/samples.svg\n"


@needs_mnist
def test_the_whole_pipeline_on_mnist(project: Project):
    project.edit("params.yaml", "epochs: 10", "epochs: 1")
    assert project.repro(MNIST_MIRROR=MIRROR) == STAGES
    metrics = json.loads(project.read("metrics/evaluate.json"))
    assert metrics["images"] == 10_000
    assert metrics["accuracy"] > 0.93
    exports = {row["format"]: row for row in json.loads(project.read("metrics/export.json"))}
    assert exports["int8"]["bytes"] < exports["onnx"]["bytes"] / 3


@pytest.mark.slow
@needs_mnist
def test_clones_share_their_downloads(project: Project):
    """The files are in the user's cache folder. DVC's temporary copies use them, too."""
    assert project.repro("prepare", MNIST_MIRROR=MIRROR) == ["prepare"]
    second = fresh_clone(project.folder.parent / "a second clone")
    assert second.repro("prepare", MNIST_MIRROR="/nowhere") == ["prepare"]
    second.run("git", "commit", "--quiet", "--all", "--message=Prepare", "--allow-empty")
    temporary = ("dvc", "exp", "run", "--temp", "-S", "prepare.seed=1", "prepare")
    assert executed(second.run(*temporary, MNIST_MIRROR="nowhere")) == ["prepare"]


def dvc_md5(path: Path) -> str:
    """Return the checksum that DVC gives a file, or a folder: that of the list of its files'."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    ignored = GitIgnoreSpec.from_lines((ROOT / ".dvcignore").read_text().splitlines())
    files = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and not ignored.match_file(file.relative_to(ROOT))
    )
    rows = [{"md5": dvc_md5(path / file), "relpath": file} for file in files]
    return f"{hashlib.md5(json.dumps(rows).encode()).hexdigest()}.dir"


def test_the_committed_results_are_those_of_the_committed_code():
    """dvc.lock holds the MD5 of each stage's inputs and outputs; those in Git must match."""
    lock = YAML(typ="safe").load(ROOT / "dvc.lock")
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    assert list(lock["stages"]) == STAGES
    for name, stage in lock["stages"].items():
        expected = {name: params[name]}
        if name == "train":
            recipe = params["train"]["recipe"]
            expected[f"recipes.{recipe}"] = params["recipes"][recipe]
        assert stage["params"]["params.yaml"] == expected
        for file in stage["deps"] + stage["outs"]:
            if not file["path"].startswith(("data/", "models/")):  # Git does not have those
                digest = dvc_md5(ROOT / file["path"])
                assert digest == file["md5"], f"{file['path']} is not what {name} used: dvc repro"
    if params["prepare"]["dataset"] == "mnist":
        assert json.loads((ROOT / "metrics/evaluate.json").read_text())["accuracy"] >= 0.97


@pytest.mark.slow
def test_a_folder_of_pictures_becomes_a_model_with_their_names(committed: Project):
    output = committed.run("dvc", "exp", "run", "-S", "prepare.dataset=symbols")
    assert executed(output) == STAGES
    assert "symbols: 144 training, 16 validation, 40 test images of 5 classes" in output
    assert json.loads(committed.read("metrics/evaluate.json"))["accuracy"] > 0.9
    names = ["arrow", "circle", "cross", "square", "triangle"]
    assert json.dumps(names).encode() in committed.read("models/README.md")
    rows = csv.DictReader(committed.read("metrics/per_class.csv").decode().splitlines())
    assert [row["class"] for row in rows] == names
    pictures = [f"data/symbols/{name}/00.png" for name in names]
    lines = committed.run("python", "-m", "predict", *pictures).splitlines()
    assert [line.split()[1] for line in lines] == names
    difference = committed.run("dvc", "metrics", "diff")
    assert re.search(r"dataset\.json +classes +10 +5 +-5", difference)
    assert executed(committed.run("dvc", "exp", "run", "-S", "prepare.dataset=digits")) == []


@pytest.mark.slow
@pytest.mark.parametrize("change", ["dataset: symbols", "seed: 1"])
@pytest.mark.parametrize("stage", ["evaluate", "export"])
def test_files_of_different_runs_are_refused(reproduced: Project, change: str, stage: str):
    """Another data set; the same, divided otherwise, so that the network was trained on test images."""
    params = reproduced.read("params.yaml").decode()
    section = params.index("prepare:")
    old = change.partition(":")[0]
    new = re.sub(rf"^  {old}: \S+", f"  {change}", params[section:], count=1, flags=re.MULTILINE)
    (reproduced.folder / "params.yaml").write_text(params[:section] + new)
    assert reproduced.repro("--single-item", "prepare") == ["prepare"]
    output = reproduced.run("dvc", "repro", "--single-item", stage, fails=True)
    [line] = re.findall(r"^error: .*", output, re.MULTILINE)
    assert line.startswith("error: data/prepared/test.safetensors: ")
    assert line.endswith("run `dvc repro`")
