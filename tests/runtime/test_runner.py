"""Edits and interrupts while real stages run in real repositories."""

import os
import re
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest

import stages
from stages.runtime import runner
from stages.runtime.errors import UserError
from stages.runtime.inputs import Inputs
from stages.runtime.outputs import Outputs
from tests.project import ROOT, Project, Running, clean_environment, executed

# Of 1,500 images: long enough for an edit.
LONG = ("epochs: 10\n    batch_size: 32", "epochs: 2000\n    batch_size: 32")


@pytest.fixture
def long_training(reproduced: Project) -> Project:
    reproduced.edit("params.yaml", *LONG)
    return reproduced


def assert_nothing_recorded(project: Project, lock: bytes, output: str, line: str) -> None:
    [error] = re.findall(r"^error: .*", output, re.MULTILINE)
    assert re.match(rf"error: {line} while train was running, so nothing was recorded", error)
    assert "undo the change first, and `dvc repro` takes them from its cache" in error
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
def test_a_run_whose_inputs_were_edited_is_not_recorded(
    long_training: Project, file: str, old: str, new: str, line: str
):
    lock = long_training.read("dvc.lock")
    running = Running(long_training, "dvc", "repro", "train")
    running.wait_for("Epoch 1:")
    path = long_training.folder / file
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))
    assert_nothing_recorded(long_training, lock, running.end(fails=True), line)
    # As the line says: undo the change.
    assert not (long_training.folder / "models/model_weights.pth").exists()
    path.write_text(text)
    long_training.edit("params.yaml", *reversed(LONG))
    assert long_training.repro("train") == []
    assert (long_training.folder / "models/model_weights.pth").exists()
    assert long_training.read("dvc.lock") == lock


@pytest.mark.slow
def test_a_refused_experiment_that_edits_the_parameters_spoils_nothing(
    long_training: Project, explained: Callable[[str], None]
):
    """DVC refuses a second run, but rewrites params.yaml first."""
    lock = long_training.read("dvc.lock")
    running = Running(long_training, "dvc", "repro", "train")
    running.wait_for("Epoch 1:")
    os.killpg(running.process.pid, signal.SIGSTOP)  # else it may end before DVC looks
    long_training.run("dvc", "exp", "run", "-S", "recipes.tutorial.epochs=3", fails=True)
    os.killpg(running.process.pid, signal.SIGCONT)
    line = r"params\.yaml: recipes\.tutorial\.epochs changed from 2000 to 3"
    output = running.end(fails=True)
    explained(output)
    assert_nothing_recorded(long_training, lock, output, line)


@pytest.mark.slow
def test_edits_of_other_stages_inputs_are_allowed(reproduced: Project):
    reproduced.edit("params.yaml", LONG[0], LONG[1].replace("2000", "60"))
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


def test_a_stage_refuses_other_versions_than_the_pinned_ones(project: Project):
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
        "data/s": "content",
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
def test_other_changes_are_ignored(inputs: Inputs, file: str, text: str):
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text(text)
    inputs.check()


@pytest.mark.parametrize("edited", [False, True])
def test_outputs_are_published_unless_an_input_changed(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, edited: bool
):
    def main(inputs: Inputs, outputs: Outputs) -> None:
        outputs.write_bytes(Path("out"), b"new")
        if edited:
            Path("code/a.py").write_text("edited")

    stage = ModuleType("code.one")
    stage.main = main
    monkeypatch.setitem(sys.modules, "code.one", stage)
    monkeypatch.setattr(runner, "check_packages", lambda: None)
    monkeypatch.setattr(stages, "SOURCES", {})
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    Path("stages").mkdir()  # for the lock
    Path("out").write_bytes(b"earlier")
    with pytest.raises(UserError, match=r"^code/a\.py changed") if edited else nullcontext():
        runner._run("code.one")
    assert Path("out").read_bytes() == (b"earlier" if edited else b"new")


def test_what_is_read_is_what_was_digested(inputs: Inputs):
    """Also if an edit has been undone by the time of the last comparison."""
    assert inputs.read(Path("code/a.py")) == b""
    Path("code/a.py").write_text("edited")
    for use in (inputs.read, inputs.map):
        with pytest.raises(UserError, match=r"^code/a\.py changed "):
            use(Path("code/a.py"))
    Path("code/a.py").write_text("")
    inputs.check()


def test_writing_to_mapped_data_is_noticed_after_it_was_undone(inputs: Inputs):
    data = Path("data/s")
    mapped = inputs.map(data)
    inputs.check(quick=True)
    data.write_bytes(b"another")
    assert mapped[:] == b"another"
    data.write_bytes(b"content")
    for quick in (True, False):
        with pytest.raises(UserError, match=r"^data/s changed "):
            inputs.check(quick)


def test_mapped_data_may_be_replaced_and_linked(inputs: Inputs):
    """As `git stash` and DVC's hard links do."""
    data = Path("data/s")
    inputs.map(data)
    Path("link").hardlink_to(data)
    inputs.check(quick=True)
    Path("new").write_bytes(b"content")
    Path("new").replace(data)
    inputs.check(quick=True)
    inputs.check()


EDIT = """
import os, sys
from pathlib import Path
from stages.runtime.errors import run_command
from stages.runtime.inputs import Inputs
inputs = Inputs("evaluate")
code = Path("stages/reporting/confusions.py")
text = code.read_text()
code.write_text(text + "# edited\\n")
import stages.evaluate
code.write_text(text)
run_command(lambda: (inputs.check(), inputs.check_code()))
"""


def test_code_that_was_edited_when_it_was_imported_is_not_recorded(on_digits: tuple[Project, str]):
    output = on_digits[0].run("python", "-c", EDIT, fails=True)
    assert output.startswith("error: stages/reporting/confusions.py changed while evaluate was")


@pytest.mark.parametrize("pattern", ["confusions.py", "stages/reporting/"])
def test_code_that_dvcignore_hides_is_refused(reproduced: Project, pattern: str):
    with (reproduced.folder / ".dvcignore").open("a") as file:
        file.write(f"{pattern}\n")
    output = reproduced.run("python", "-m", "stages.evaluate", fails=True)
    assert re.fullmatch(
        r"error: stages/reporting/\w+\.py is used, but is no dependency of evaluate: dvc\.yaml does "
        r"not list its folder, or \.dvcignore hides it; correct that file\n",
        output,
    )


@pytest.mark.parametrize(
    "out", ["outs: [far/deep/out]", "metrics: [out, {far/out: {cache: false}}]", "plots: [far/out]"]
)
def test_a_folder_of_outputs_on_another_disk_is_refused(
    inputs: Inputs, tmp_path_factory: pytest.TempPathFactory, out: str
):
    """DVC failed after the training, and the checkpoint was gone."""
    Path("dvc.yaml").write_text(f"{PIPELINE}    {out}\n")
    Path("inside").mkdir()
    Path("far").symlink_to("inside")  # to which DVC follows
    Inputs("one")
    Path("far").unlink()
    Path("far").symlink_to(tmp_path_factory.mktemp("disk"))
    with pytest.raises(
        UserError, match=r"^far(/deep)?: leads to /.*disk.*, but DVC's outputs must "
    ):
        Inputs("one")


@pytest.mark.parametrize("folder", ["code", "data"])
def test_rules_beside_an_input_are_refused(inputs: Inputs, folder: str):
    """DVC heeds a .dvcignore in any folder."""
    Path(folder, ".dvcignore").write_text("*\n")
    with pytest.raises(UserError, match=rf"^{folder}/\.dvcignore: only the \.dvcignore beside"):
        Inputs("one")


IMPORTED = """
from stages.runtime.errors import run_command
from stages.runtime.inputs import Inputs
inputs = Inputs("evaluate")
import stages.evaluate
run_command(inputs.check_code)
"""


@pytest.mark.parametrize(
    ("module", "path"), [("helper", "helper.py"), ("tools.machine", "tools/__init__.py")]
)
def test_code_outside_of_stages_is_refused(project: Project, module: str, path: str):
    assert project.run("python", "-c", IMPORTED) == ""
    (project.folder / "helper.py").touch()
    project.edit("stages/reporting/confusions.py", "import torch", f"import torch, {module}")
    assert project.run("python", "-c", IMPORTED, fails=True) == (
        f"error: {path} is used, but is no dependency of evaluate: DVC does not track it; move it "
        "into a folder of stages/ that the stage depends on\n"
    )


def test_an_environment_in_the_project_is_no_code_of_it(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
):
    """Nor is a name that is no path, as that of torch.ops."""
    monkeypatch.setattr(stages, "SOURCES", {})
    monkeypatch.setattr(
        site, "getsitepackages", lambda: [str(Path("env/site-packages").absolute())]
    )
    module = ModuleType("helper")
    monkeypatch.setitem(sys.modules, "helper", module)
    for file in ("_helper.py", str(Path("env/site-packages/helper.py").absolute()), None):
        module.__file__ = file
        inputs.check_code()
    module.__file__ = str(Path("helper.py").absolute())
    with pytest.raises(UserError, match=r"^helper\.py is used, but is no dependency of one: "):
        inputs.check_code()


@pytest.mark.parametrize("text", ["stages: {two: {}}", "[]", "stages: []"])
def test_a_stage_that_dvc_yaml_does_not_have_is_one_line(inputs: Inputs, text: str):
    Path("dvc.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^dvc\.yaml: stages\.one: no such stage$"):
        Inputs("one")


@pytest.mark.parametrize("file", ["stages/reporting/confusions.py", "stages/__init__.py"])
@pytest.mark.parametrize("prefix", ["", "elsewhere"])
def test_bytecode_of_an_earlier_edit_is_never_recorded(reproduced: Project, file: str, prefix: str):
    """Python trusts a .pyc whose size and mtime match, the mtime in whole seconds."""
    path = reproduced.folder / file
    variables = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": prefix}
    text = path.read_text()

    def edit(number: int) -> None:
        path.write_text(f"{text}\nNUMBER = {number}\n")
        os.utime(path, (1_700_000_000, 1_700_000_000))

    def number() -> str:
        module = file.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        code = f"import {module} as module; print(module.NUMBER)"
        return reproduced.run("python", "-c", code, **variables).strip()

    edit(12)
    assert number() == "12"
    edit(11)
    if "__init__" in file:
        output = reproduced.run("python", "-m", "stages.evaluate", fails=True, **variables)
        assert output.startswith("error: stages/__init__.py changed while evaluate was running")
    assert number() == "11"
    reproduced.run("python", "-m", "stages.evaluate", **variables)


@pytest.mark.parametrize(
    ("dependency", "key"), [("data/${train.nothing}", r"train\.nothing"), ("${room}", "room")]
)
def test_a_key_that_params_yaml_does_not_have_is_one_line(
    inputs: Inputs, dependency: str, key: str
):
    Path("dvc.yaml").write_text(f"stages:\n  one:\n    deps: ['{dependency}']\n")
    with pytest.raises(UserError, match=rf"^params\.yaml: {key}: missing; add it$"):
        Inputs("one")


def test_an_interrupt_that_the_caller_ignores_stays_ignored(reproduced: Project):
    """As after `nohup`, or `trap '' INT`."""
    command = "trap '' INT; python -m stages.evaluate & sleep 1; kill -INT $!; wait $!"
    assert "Test accuracy" in reproduced.run("sh", "-c", command)


def test_a_signal_after_the_end_of_a_stage_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
):
    """torch has slow atexit functions, and torchrun ends the other processes while they run."""

    def stage(_: str) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        raise UserError("another process has ended")

    monkeypatch.setattr(runner, "_run", stage)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit):
            runner.run("stages.train")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


LIBRARIES = """
import io
import stages
import torch
from tqdm import tqdm
torch.save({}, file := io.BytesIO())
file.seek(0)
print(torch.load(file), list(tqdm([1], disable=None)))
"""


def test_no_inherited_setting_of_a_library_stops_a_stage():
    """Each of these ended in a traceback."""
    settings = {
        "TQDM_MININTERVAL": "abc",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    command, environment = [sys.executable, "-c", LIBRARIES], os.environ | settings
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr) == ("{} [1]\n", "")


def test_nothing_inherited_reaches_a_stage(committed: Project):
    """Each of these ended in a traceback, after DVC had removed the outputs."""
    for name in ("numpy.py", "random.py"):
        (committed.folder / name).write_text("")
    inherited = {
        "LOCAL_WORLD_SIZE": "0",
        "PYTHONSAFEPATH": "1",
        "PYTORCH_JIT": "0",
        "TORCHELASTIC_ERROR_FILE": "/nonexistent/file",
        "TORCHELASTIC_RUN_ID": "another",
    }
    for stage in ("train", "export"):
        committed.run("dvc", "repro", "--force", "--single-item", stage, **inherited)
    assert committed.run("git", "status", "--porcelain", "--untracked-files=no") == ""
