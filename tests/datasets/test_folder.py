"""A folder of pictures as a data set: valid ones, and the line for each that is not valid."""

import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stages.datasets import folder
from stages.datasets.dataset import Dataset, load
from stages.datasets.params import PrepareParams
from stages.runtime.errors import UserError, run_command
from stages.runtime.inputs import ignored
from stages.runtime.processes import usable_cores
from tests.project import ROOT as REPOSITORY
from tests.project import Project, Running
from tests.samples import AnyInputs

ROOT = Path("data/letters")

LITTLE_MEMORY = """
import os, resource, sys
from pathlib import Path
from stages.runtime import errors
from stages.datasets.params import PrepareParams
from stages.datasets.dataset import load
from tests.samples import AnyInputs

os.chdir(sys.argv[1])
params = PrepareParams(dataset="letters", validation_size=0.1, seed=0, test_share=None,
    layout=None, size=None, skip_unreadable=True)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, resource.RLIM_INFINITY))
errors.run_command(lambda: load(params, AnyInputs()))
"""


def save(path: Path, number: int = 0) -> None:
    """Save a picture of a line; each number gives another line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", (40, 40), 255)
    end = 5 + number % 30, 34 - number // 30
    ImageDraw.Draw(image).line([(5, 5), end, (34, 34)], 0, 3)
    image.save(path)


def lay_out(*names: str) -> None:
    """Save a different picture under each name."""
    for number, name in enumerate(names):
        save(ROOT / name, number)


def load_letters(**changes: object) -> Dataset:
    defaults: dict = {"dataset": "letters", "validation_size": 0.1, "seed": 0, "test_share": None}
    defaults |= {"layout": "drawing", "size": None, "skip_unreadable": None}
    return load(PrepareParams(**defaults | changes), AnyInputs())


def all_errors_of_loading(**changes: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_letters(**changes)
    return str(caught.value).splitlines()


def error_of_loading(**changes: object) -> str:
    (line,) = all_errors_of_loading(**changes)
    return line


@pytest.fixture
def letters(in_empty_folder: Path) -> None:
    """Three pictures of each of two classes."""
    lay_out("a/0.png", "b/1.png", "a/2.png", "b/3.png", "a/4.png", "b/5.png")


@pytest.fixture
def letters_with_test(in_empty_folder: Path) -> None:
    lay_out("train/a/0.png", "train/b/1.png", "test/a/2.png", "test/b/3.png")


def test_classes_are_folders_in_the_order_of_their_names(letters: None):
    classes, has_test, pictures = folder.list_pictures("letters", AnyInputs())
    assert (classes, has_test) == (["a", "b"], False)
    assert [picture.path for picture in pictures] == [
        f"data/letters/{name}.png" for name in ("a/0", "a/2", "a/4", "b/1", "b/3", "b/5")
    ]
    dataset = load_letters()
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test is None
    assert dataset.about["classes"] == ["a", "b"]
    assert len(np.unique(dataset.images, axis=0)) == 6


def test_train_and_test_above_the_classes_are_the_split(letters_with_test: None):
    dataset = load_letters()
    assert dataset.about["classes"] == ["a", "b"]
    assert dataset.test is not None
    assert dataset.test.tolist() == [False] * 2 + [True] * 2
    assert error_of_loading(test_share=0.5) == (
        "params.yaml: prepare.test_share: 0.5 does not apply to letters, which has a folder test/; "
        "set it to null"
    )


def test_classes_may_be_called_train_and_test(in_empty_folder: Path):
    lay_out("train/0.png", "test/1.png")
    dataset = load_letters()
    assert dataset.about["classes"] == ["test", "train"]
    assert dataset.test is None


def test_the_number_of_readers_never_changes_the_result(
    letters: None, monkeypatch: pytest.MonkeyPatch
):
    Path(ROOT, "a/1.png").write_text("no picture")
    alone = load_letters(skip_unreadable=True)
    monkeypatch.setattr(folder, "FEW", 0)
    monkeypatch.setattr(folder, "CHUNK", 2)
    together = load_letters(skip_unreadable=True)
    assert np.array_equal(alone.images, together.images)
    assert alone.about == together.about


@pytest.fixture
def reading(project: Project) -> Running:
    """The prepare stage while its readers read pictures that take half a minute."""
    if usable_cores() == 1:
        pytest.skip("on one core there are no readers")
    large = project.folder / "large.png"
    Image.new("L", (7000, 7000)).save(large, compress_level=1)
    for number in range(folder.FEW + 1):
        path = project.folder / ROOT / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(large)
    project.edit("params.yaml", "dataset: mnist", "dataset: letters")
    stage = Running(project, "python", "-m", "stages.prepare")
    while len(stage.children()) < usable_cores():
        assert stage.process.poll() is None, stage.output()
        time.sleep(0.01)
    return stage


def ended(process: int) -> bool:
    try:
        return not Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return True


def test_a_killed_reader_is_one_line(reading: Running):
    """Linux kills processes if memory runs out."""
    os.kill(reading.children()[0], signal.SIGKILL)
    output = reading.end(fails=True)
    assert output.startswith(
        "error: data/letters/a/000.png: the system killed the process that read"
    )
    assert output.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc of Linux")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_readers_end_with_the_stage(reading: Running, number: signal.Signals):
    readers = reading.children()
    reading.process.send_signal(number)
    assert "Traceback" not in reading.end(fails=True)
    deadline = time.monotonic() + 60
    while not all(map(ended, readers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc of Linux")
def test_too_little_memory_is_no_fault_of_the_picture(letters: None):
    """It is not skipped, else the set would depend on the machine."""
    Image.new("RGB", (7000, 7000)).save(ROOT / "a/large.png", compress_level=1)
    command = [sys.executable, "-c", LITTLE_MEMORY, str(Path.cwd())]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: data/letters/a/large.png: not enough memory to read it")
    assert result.stderr.count("\n") == 1


def test_hidden_and_ignored_files_are_skipped(letters: None):
    before = load_letters().about["sha256"]
    Path(".dvcignore").write_text("Thumbs.db\n*~\n*.tmp\n")
    for name in (".hidden.png", "Thumbs.db", "a.png~", "a.tmp"):
        (ROOT / "a" / name).write_text("no picture")
    (ROOT / ".DS_Store").touch()
    (ROOT / "README.md").write_text("About these letters")
    (ROOT / ".git").mkdir()
    assert load_letters().about["sha256"] == before


@pytest.mark.parametrize("splits", [("",), ("train/", "test/")])
def test_folders_of_systems_are_neither_classes_nor_inputs(in_empty_folder: Path, splits: tuple):
    """They were hashed, and became classes or got the advice to train on their thumbnails."""
    shutil.copy(REPOSITORY / ".dvcignore", ".")
    lay_out(*(f"{split}{name}.png" for split in splits for name in ("a/0", "b/1")))
    folders = ["@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "#recycle", "@Recycle"]
    for parent in {ROOT, *(ROOT / split for split in splits), ROOT / splits[0] / "a"}:
        for name in [*folders, "System Volume Information", "#snapshot"]:
            save(parent / name / "thumbnail.png")
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.png"):
            (parent / name).write_text("no picture")
    classes, _, pictures = folder.list_pictures("letters", AnyInputs())
    assert classes == ["a", "b"]
    listed = {picture.path for picture in pictures}
    assert {path.rsplit("/")[-1] for path in listed} == {"0.png", "1.png"}
    is_ignored = ignored()
    files = {str(path) for path in ROOT.rglob("*") if path.is_file()}
    assert {path for path in files if not is_ignored(path)} == listed  # what DVC hashes


@pytest.mark.parametrize("rule", ["letters", "lett*/", "data/letters/"])
def test_a_data_set_that_dvcignore_hides_is_named(letters: None, rule: str):
    """A class was named, which cannot help."""
    Path(".dvcignore").write_text(f"{rule}\n")
    line = "data/letters: a folder that .dvcignore hides; rename it, and set prepare.dataset"
    assert error_of_loading().startswith(line)


def test_rules_above_the_data_set_are_refused(letters: None):
    """They hid pictures from DVC, which prepare read."""
    Path("data/.dvcignore").write_text("0.png\n")
    assert error_of_loading().startswith("data/.dvcignore: only the .dvcignore beside dvc.yaml")


@pytest.mark.parametrize(
    "name", ["with a space", "größer", "日本", "a|b", 'q"uote', "T, top", "क\u094d\u200dष"]
)
def test_a_class_may_have_any_printable_name(letters: None, name: str):
    (ROOT / "b").rename(ROOT / name)
    assert name in load_letters().about["classes"]


def test_a_class_name_is_stored_in_one_form(letters: None):
    sets = []
    for form in ("NFC", "NFD"):
        path = (ROOT / "b").rename(ROOT / unicodedata.normalize(form, "größer"))
        sets.append(load_letters().about)
        path.rename(ROOT / "b")
    assert sets[0] == sets[1]


# The file that is added to the letters, its content, and the line. A name that ends in / is a folder, a
# content that begins with -> is a link, and | is a pipe.
FAULTS = [
    ("a/c\nd.png", "text", "/a/c\\nd.png: not a picture that can be read (PNG, JPEG, WEBP, GIF,"),
    ("c/", "", "/c: no pictures of this class; add some or remove the folder"),
    ("A/0.png", "text", ": the classes A and a differ in case only"),
    ("c\nd/0.png", "text", "/c\\nd: the name of a class has printable letters"),
    (
        "c /0.png",
        "text",
        "/c : the name of a class has printable letters, and no space at its ends",
    ),
    ("a/link.png", "-> nothing.png", "/a/link.png: a link, not to a file; replace it"),
    ("c", "-> a", "/c: a link, not to a file; replace it by a folder"),
    ("a/more/", "", "/a/more: no file; the folder of a class has pictures only"),
    (
        "Test/a/",
        "",
        "/Test/a: no file; the folder of a class has pictures only (the folders above ",
    ),
    ("a/.dvcignore", "*.png", "/a/.dvcignore: only the .dvcignore beside dvc.yaml counts"),
    ("0.png", "text", "/0.png: next to the folders of the classes; move it into one"),
    ("c.orig/0.png", "text", "/c.orig: a folder that .dvcignore hides, by a line without / at"),
    (
        "a/caf\udce9.png",
        "text",
        "/a/caf\\udce9.png: the name is not UTF-8, as DVC needs it; rename it",
    ),
    ("caf\udce9/0.png", "text", "/caf\\udce9: the name is not UTF-8, as DVC needs it; rename it"),
    ("a/pipe.png", "|", "/a/pipe.png: a pipe or a device, which DVC would wait for; remove it"),
    ("pipe", "|", "/pipe: a pipe or a device, which DVC would wait for; remove it"),
]


@pytest.mark.parametrize(
    ("name", "content", "line"), FAULTS, ids=[ascii(fault[0]) for fault in FAULTS]
)
def test_a_fault_of_a_folder_is_one_line(letters: None, name: str, content: str, line: str):
    Path(".dvcignore").write_text("*.orig\n")
    path = ROOT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    elif content.startswith("-> "):
        path.symlink_to(content[3:])
    elif content == "|":
        os.mkfifo(path)
    else:
        path.write_text(content)
    assert error_of_loading().startswith(f"data/letters{line}")


SPLIT_FAULTS = [
    ([], ": no such folder; make it"),
    (["a/0"], ": 1 classes; use 2 to 1000 folders"),
    (["train/a/0", "train/b/1"], ": has no test/; add it, or move the folders of the classes up"),
    (["train/a/0", "train/b/1", "test/a/2"], ": the class b is not in both train/ and test/"),
    (
        ["train/a/0", "test/a/1", "val/a/2"],
        "/val: next to train/ and test/; move its pictures into",
    ),
    (
        ["train/a/0", "test/a/1", "2"],
        "/2.png: next to the folders of the classes; move it into one",
    ),
    (["train/a/0", "test/a/1", "train/2"], "/train/2.png: next to the folders of the classes"),
    (
        [unicodedata.normalize(form, "ö/0") for form in ("NFC", "NFD")],
        ": the classes ö and ö differ",
    ),
]


@pytest.mark.parametrize(("names", "line"), SPLIT_FAULTS)
def test_a_fault_of_classes_and_splits_is_one_line(
    in_empty_folder: Path, names: list[str], line: str
):
    lay_out(*(f"{name}.png" for name in names))
    assert error_of_loading().startswith(f"data/letters{line}")


# Of each kind of fault: what makes each of them, and how its line begins.
SEVERAL: list[tuple[str, list[str], Callable[[Path], None], str]] = [
    ("pictures that cannot be read", ["a/x.png", "b/y.png"], Path.touch, "/{}: an empty file"),
    ("folders in classes", ["a/x", "b/y"], Path.mkdir, "/{}: no file; the folder of a class"),
    ("pipes", ["a/x", "b/y"], os.mkfifo, "/{}: a pipe or a device"),
    ("pictures beside classes", ["x.png", "y.png"], Path.touch, "/{}: next to the folders"),
    ("classes without pictures", ["x", "y"], Path.mkdir, "/{}: no pictures of this class"),
    ("names of classes", [" x", "y "], Path.mkdir, "/{}: the name of a class has printable"),
]


@pytest.mark.parametrize(
    ("names", "make", "line"), [case[1:] for case in SEVERAL], ids=[case[0] for case in SEVERAL]
)
def test_all_faults_of_a_kind_are_named_at_once(
    letters: None, names: list[str], make: Callable[[Path], None], line: str
):
    """They were named one a run."""
    for name in names:
        make(ROOT / name)
    lines = all_errors_of_loading()
    assert len(lines) == len(names)
    for name, printed in zip(names, lines, strict=True):
        assert printed.startswith("data/letters" + line.format(name))


def test_all_classes_in_only_one_of_train_and_test_are_named(letters_with_test: None):
    lay_out("train/c/4.png", "test/d/5.png", "test/e/6.png")
    assert [line.partition(" is not")[0] for line in all_errors_of_loading()] == [
        f"data/letters: the class {name}" for name in "cde"
    ]


def test_twenty_faults_are_named_and_the_others_counted(
    letters_with_test: None, capsys: pytest.CaptureFixture[str], explained: Callable[[str], None]
):
    for number in range(25):
        save(ROOT / f"train/b/again {number:02}.png", 3)
        save(ROOT / f"test/a/again {number:02}.png", 3)
    with pytest.raises(SystemExit):
        run_command(load_letters)
    *lines, last = capsys.readouterr().err.splitlines()
    assert len(lines) == 20
    assert lines[19] == (
        "error: data/letters/train/b/again 00.png and data/letters/test/a/again 19.png: the same "
        "picture after layout, in train/ and in test/, so the test accuracy would be too high; remove "
        "one"
    )
    assert last == "error: and 6 more like these"  # the others, and test/b/3.png
    explained("\n".join([*lines, last]))


def test_a_picture_in_train_and_test_is_refused(letters_with_test: None):
    save(ROOT / "train/b/again.png", 3)
    assert error_of_loading() == (
        "data/letters/train/b/again.png and data/letters/test/b/3.png: the same picture after layout, "
        "in train/ and in test/, so the test accuracy would be too high; remove one"
    )


def test_pictures_with_two_labels_are_a_warning(letters: None, capsys: pytest.CaptureFixture[str]):
    save(ROOT / "b/copy.png", 0)
    assert load_letters().first.tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert capsys.readouterr().out == (
        "warning: data/letters/a/0.png and data/letters/b/copy.png: the same picture after layout, "
        "with two labels; remove one, or try another prepare.layout\n"
    )


def text(path: Path) -> None:
    path.write_text("no picture")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def blank(path: Path) -> None:
    Image.new("L", (40, 40), 255).save(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def huge(path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (text, "not a picture that can be read (PNG, JPEG, WEBP, GIF, BMP, TIFF)"),
        (empty, "an empty file; copy it again"),
        (truncated, "damaged picture ("),
        (blank, "nothing on it: all of it is one colour"),
        (huge, "larger than 50 megapixels; scale it down"),
    ],
)
def test_an_unreadable_picture_is_named_or_skipped(
    letters: None, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], reason: str
):
    images = np.array(load_letters().images)
    spoil(ROOT / "a/2.png")
    line = error_of_loading()
    assert line.startswith(f"data/letters/a/2.png: {reason}")
    assert line.endswith(
        "; repair or remove it, or set prepare.skip_unreadable to true in params.yaml"
    )
    dataset = load_letters(skip_unreadable=True)
    assert np.array_equal(dataset.images, np.delete(images, 1, axis=0))
    assert dataset.unreadable == 1
    assert capsys.readouterr().out.startswith(f"skipped: data/letters/a/2.png: {reason}")


def test_a_class_without_readable_pictures_is_one_line(letters_with_test: None):
    text(ROOT / "test/b/3.png")
    assert error_of_loading(skip_unreadable=True) == (
        "data/letters: no readable picture of the class b in test/; add some"
    )


def test_a_drawing_is_the_same_light_on_dark(letters: None):
    dataset = load_letters(layout="drawing")
    assert dataset.about["layout"] == "drawing"
    for path in ROOT.rglob("*.png"):
        image = Image.open(path)
        Image.eval(image, lambda level: 255 - level).convert("RGB").save(path)
    inverted = load_letters(layout="drawing")
    assert np.abs(inverted.images.astype(int) - dataset.images).max() <= 1


def test_a_link_to_a_file_is_that_file(letters: None):
    """DVC makes such links with `cache.type symlink`."""
    before = load_letters().about
    (ROOT / "a/0.png").rename("elsewhere.png")
    (ROOT / "a/0.png").symlink_to(Path("elsewhere.png").absolute())
    assert load_letters().about == before
