"""What the frame promises, by editing and interrupting real stages in real repositories."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.common.errors import UserError
from stages.common.files import Outputs
from stages.common.stage import Inputs, run_main
from tests.project import ROOT, Project, Running, clean_environment, executed

LONG = ("epochs: 10", "epochs: 2000")  # of 1,500 images: long enough to edit something meanwhile


@pytest.fixture
def long_training(reproduced: Project) -> Project:
    reproduced.edit(
        "params.yaml", LONG[0] + "\n    batch_size: 32", LONG[1] + "\n    batch_size: 32"
    )
    return reproduced


def assert_nothing_recorded(project: Project, lock: bytes, output: str, line: str) -> None:
    found = re.search(r"^error: .*", output, re.MULTILINE)
    assert found, output
    assert re.match(rf"error: {line} while train was running, so nothing was recorded", found[0])
    assert "undo the change first, and `dvc repro` takes them from its cache" in found[0]
    assert "Traceback" not in output
    assert project.read("dvc.lock") == lock
    assert list(project.folder.rglob("*.tmp")) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "line"),
    [
        (
            "params.yaml",
            "epochs: 2000",
            "epochs: 4",
            r"params\.yaml: recipes\.tutorial\.epochs changed from 2000 to 4",
        ),
        (
            "params.yaml",
            "recipe: tutorial",
            "recipe: fast",
            r"params\.yaml: train\.recipe changed from 'tutorial' to 'fast'",
        ),
        (
            "stages/training/loop.py",
            "import torch\n",
            "import torch  # edited\n",
            r".*loop\.py changed",
        ),
        ("stages/requirements.txt", "tqdm==", "tqdm ==", r"stages/requirements\.txt changed"),
    ],
)
def test_what_is_edited_while_a_stage_runs_is_not_recorded(
    long_training: Project, file: str, old: str, new: str, line: str
):
    lock = long_training.read("dvc.lock")
    running = Running(long_training, "dvc", "repro", "train")
    running.wait_for("Epoch 1:")
    path = long_training.folder / file
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))
    assert_nothing_recorded(long_training, lock, running.end(fails=True), line)
    # The line's own way back, to what was there before this test.
    assert not (long_training.folder / "models/model_weights.pth").exists()
    path.write_text(text)
    long_training.edit("params.yaml", *reversed(LONG))
    assert long_training.repro("train") == []
    assert (long_training.folder / "models/model_weights.pth").exists()
    assert long_training.read("dvc.lock") == lock


@pytest.mark.slow
def test_an_experiment_that_ends_as_busy_spoils_nothing(
    long_training: Project, explained: Callable[[str], None]
):
    """DVC refuses a second run, but has rewritten params.yaml by then."""
    lock = long_training.read("dvc.lock")
    running = Running(long_training, "dvc", "repro", "train")
    running.wait_for("Epoch 1:")
    os.killpg(running.process.pid, signal.SIGSTOP)  # or it may notice, and end, before DVC looks
    long_training.run("dvc", "exp", "run", "-S", "recipes.tutorial.epochs=3", fails=True)
    os.killpg(running.process.pid, signal.SIGCONT)
    line = r"params\.yaml: recipes\.tutorial\.epochs changed from 2000 to 3"
    output = running.end(fails=True)
    explained(output)
    assert_nothing_recorded(long_training, lock, output, line)


@pytest.mark.slow
def test_what_other_stages_depend_on_may_be_edited(reproduced: Project):
    reproduced.edit(
        "params.yaml", "epochs: 10\n    batch_size: 32", "epochs: 60\n    batch_size: 32"
    )
    running = Running(reproduced, "dvc", "repro", "train")
    running.wait_for("Epoch 1:")
    reproduced.edit("params.yaml", "batch_size: 1000", "batch_size: 999")
    reproduced.edit("params.yaml", "epochs: 2\n", "epochs: 3\n")  # of the recipe `fast`
    (reproduced.folder / "stages/training/.loop.py.swp").write_bytes(b"of an editor")
    assert executed(running.end()) == ["train"]
    assert reproduced.repro("train") == []


def interrupted(project: Project, seconds: float) -> tuple[int, str]:
    """Send SIGINT to a training that has run for so long; return its exit code and stderr."""
    # Where the tests run in the background, SIGINT is ignored, and a child would inherit that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        cwd=project.folder,
        env=clean_environment(project.folder.parent),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, handler)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.2, 3])
def test_ctrl_c_is_quiet_and_changes_nothing(long_training: Project, seconds: float):
    before = long_training.read("models/model_weights.pth")
    assert interrupted(long_training, seconds) == (130, "")
    assert long_training.read("models/model_weights.pth") == before
    assert list(long_training.folder.rglob("*.tmp")) == []


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate", "export"])
def test_a_stage_refuses_to_run_outside_the_environment(stage: str):
    command = [sys.executable, "-S", "-m", f"stages.{stage}"]  # -S: a Python with no packages
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert re.fullmatch(
        r"error: stages/requirements\.txt: torch==\S+, but in \S+ it is not installed; activate .+\n",
        result.stderr,
    )


def test_a_stage_refuses_other_versions_than_those_it_is_filed_under(project: Project):
    project.edit("stages/requirements.txt", "tqdm==", "tqdm==1.2.")
    output = project.run("python", "-m", "stages.evaluate", fails=True)
    assert output.startswith("error: stages/requirements.txt: tqdm==1.2.")
    assert output.count("\n") == 1


PIPELINE = """
stages:
  one:
    deps: [code, "data/${train.set}"]
    params: [train, "recipes.${train.recipe}"]
"""
PARAMS = "train: {recipe: a, set: s}\nrecipes: {a: {rate: 1}, b: {rate: 1}}\nevaluate: {size: 1}\n"


@pytest.fixture
def inputs(in_empty_folder: Path) -> Inputs:
    for file, text in {
        "dvc.yaml": PIPELINE,
        "params.yaml": PARAMS,
        ".dvcignore": "*.swp\n__pycache__/\n",
        "code/a.py": "",
        "data/s": "",
        "data/other": "",
    }.items():
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(text)
    return Inputs("one")


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        (
            "params.yaml",
            PARAMS.replace("a: {rate: 1}", "a: {rate: 2}"),
            r"params\.yaml: recipes\.a\.rate",
        ),
        ("params.yaml", PARAMS.replace("recipe: a", "recipe: b"), r"params\.yaml: train\.recipe"),
        ("params.yaml", PARAMS.replace("set: s", "set: s, new: 1"), r"params\.yaml: train\.new"),
        ("params.yaml", "train: [", r"params\.yaml"),
        ("code/a.py", "edited", r"code/a\.py"),
        ("code/new.py", "", r"code/new\.py"),
        ("data/s", "edited", r"data/s"),
        ("code/a.py", None, r"code/a\.py"),
    ],
)
def test_each_change_of_an_input_is_named(inputs: Inputs, file: str, text: str | None, line: str):
    inputs.check()
    if text is None:
        Path(file).unlink()
    else:
        Path(file).write_text(text)
    with pytest.raises(UserError, match=rf"^{line} changed.* while one was running, so nothing "):
        inputs.check()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("params.yaml", f"# a comment\n{PARAMS}".replace("b: {rate: 1}", "b: {rate: 2}")),
        ("params.yaml", PARAMS.replace("size: 1", "size: 2")),
        ("code/.a.py.swp", "of an editor"),
        ("code/__pycache__/a.pyc", "of Python"),
        ("data/other", "edited"),
    ],
)
def test_a_change_of_anything_else_is_none(inputs: Inputs, file: str, text: str):
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text(text)
    inputs.check()


def test_a_file_that_is_only_half_written_is_looked_at_again(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
):
    Path("params.yaml").write_text("train: [")
    monkeypatch.setattr(time, "sleep", lambda _: Path("params.yaml").write_text(PARAMS))
    inputs.check()


def test_outputs_are_published_only_if_the_inputs_are_the_same(inputs: Inputs):
    def main(stage: tuple[Outputs, object]) -> None:
        stage[0].write_bytes(Path("out"), b"new")

    Path("out").write_bytes(b"earlier")
    run_main(main, inputs)
    assert Path("out").read_bytes() == b"new"
    Path("out").write_bytes(b"earlier")
    Path("code/a.py").write_text("edited")
    with pytest.raises(UserError, match=r"^code/a\.py changed"):
        run_main(main, inputs)
    assert Path("out").read_bytes() == b"earlier"


@pytest.mark.parametrize("text", ["stages: {two: {}}", "[]", "stages: []"])
def test_a_stage_that_dvc_yaml_does_not_have_is_one_line(inputs: Inputs, text: str):
    Path("dvc.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^dvc\.yaml: stages\.one: no such stage$"):
        Inputs("one")


def test_bytecode_of_an_earlier_edit_is_never_run(reproduced: Project):
    """Python takes it for the source's if size and time agree, the time in whole seconds."""
    path = reproduced.folder / "stages/evaluation/confusions.py"
    path.write_text(path.read_text().replace("COUNT = 10", "COUNT = 12"))
    with_bytecode = {"PYTHONDONTWRITEBYTECODE": ""}
    command = "import stages.evaluation.confusions"
    os.utime(path, (1_700_000_000, 1_700_000_000))
    reproduced.run("python", "-c", command, **with_bytecode)
    path.write_text(path.read_text().replace("COUNT = 12", "COUNT = 11"))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    code = f"{command} as module; print(module.COUNT)"
    assert reproduced.run("python", "-c", code, **with_bytecode) == "12\n"  # what the test is about
    reproduced.run("python", "-m", "stages.evaluate", **with_bytecode)
    assert reproduced.run("python", "-c", code, **with_bytecode) == "11\n"


@pytest.mark.parametrize(
    ("pipeline", "line"),
    [
        ("deps: ['data/${train.nothing}']", r"\$\{train\.nothing\}: params\.yaml has no such key"),
        ("deps: ['${room}']", r"\$\{room\}: params\.yaml has no such key"),
        ("params: [{params.yaml: [train]}]", r"\{'params\.yaml': \['train'\]\}: the stages' frame"),
    ],
)
def test_what_the_frame_cannot_follow_in_dvc_yaml_is_one_line(
    inputs: Inputs, pipeline: str, line: str
):
    Path("dvc.yaml").write_text(f"stages:\n  one:\n    {pipeline}\n")
    with pytest.raises(UserError, match=rf"^dvc\.yaml: {line}[^\n]*$"):
        Inputs("one")


def test_an_interrupt_that_the_caller_ignores_stays_ignored(reproduced: Project):
    """As after `nohup`, or `trap '' INT`."""
    command = "trap '' INT; python -m stages.evaluate & sleep 1; kill -INT $!; wait $!"
    assert "Test accuracy" in reproduced.run("sh", "-c", command)
