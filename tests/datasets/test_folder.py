"""A folder of pictures as a data set: what it may hold, and what is said of what it may not."""

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

from stages.common.errors import UserError
from stages.common.params import PrepareParams
from stages.common.processes import usable_cores
from stages.datasets import folder
from stages.datasets.dataset import Dataset, load
from tests.project import ROOT as REPOSITORY
from tests.project import Project, Running

ROOT = Path("data/letters")

LITTLE_MEMORY = """
import os, resource, sys
from pathlib import Path
from stages.common import errors
from stages.common.params import PrepareParams
from stages.datasets.dataset import load

os.chdir(sys.argv[1])
params = PrepareParams(dataset="letters", validation_size=0.1, seed=0, test_share=None, layout=None,
    skip_unreadable=True)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, resource.RLIM_INFINITY))
errors.run(lambda: load(params))
"""


def picture(number: int, side: int = 40) -> Image.Image:
    """Draw a line that no other number has."""
    image = Image.new("L", (side, side), 255)
    end = 5 + number % 30, 34 - number // 30
    ImageDraw.Draw(image).line([(5, 5), end, (34, 34)], 0, 3)
    return image


def save(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path)


def params(**changes: object) -> PrepareParams:
    defaults = {
        "dataset": "letters",
        "validation_size": 0.1,
        "seed": 0,
        "test_share": None,
        "layout": None,
        "skip_unreadable": None,
    }
    return PrepareParams(**defaults | changes)


def read(**changes: object) -> Dataset:
    found = load(params(**changes))
    found.images = np.array(found.images)
    return found


@pytest.fixture
def letters(in_empty_folder: Path) -> Path:
    """Three pictures of each of two classes."""
    for number in range(6):
        save(ROOT / "ab"[number % 2] / f"{number}.png", number)
    return ROOT


def test_a_class_is_a_folder_and_the_order_is_that_of_names(letters: Path):
    found = read()
    assert found.paths == [
        f"data/letters/{name}.png" for name in ("a/0", "a/2", "a/4", "b/1", "b/3", "b/5")
    ]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test is None
    about = found.about
    assert (about["name"], about["classes"], about["layout"]) == ("letters", ["a", "b"], "mnist")
    assert len(np.unique(found.images, axis=0)) == 6


def test_train_and_test_above_the_classes_divide_it(letters: Path):
    (ROOT / "test").mkdir()
    (ROOT / "train").mkdir()
    for name in "ab":
        (ROOT / name).rename(ROOT / "train" / name)
        save(ROOT / "test" / name / "9.png", ord(name))
    found = read()
    assert found.about["classes"] == ["a", "b"]
    assert found.test.tolist() == [False] * 6 + [True] * 2
    with pytest.raises(
        UserError, match=r"prepare\.test_share: 0\.5 does not count for letters.*null"
    ):
        read(test_share=0.5)


def test_a_class_may_be_called_train(letters: Path):
    for old, new in (("a", "train"), ("b", "test")):
        (ROOT / old).rename(ROOT / new)
    found = read()
    assert found.about["classes"] == ["test", "train"]
    assert found.test is None


def test_many_pictures_are_read_by_other_processes_in_the_same_order(
    letters: Path, monkeypatch: pytest.MonkeyPatch
):
    alone = read()
    monkeypatch.setattr(folder, "FEW", 0)
    monkeypatch.setattr(folder, "AT_ONCE", 2)
    together = read()
    assert np.array_equal(alone.images, together.images)
    assert alone.about == together.about


@pytest.mark.skipif(usable_cores() == 1, reason="on one core there are no other processes")
def test_a_reader_that_is_killed_is_one_line_at_once(
    project: Project, explained: Callable[[str], None]
):
    """As by Linux where memory runs out. It was a traceback, after the other reader had read on."""
    large = project.folder / "large.png"
    Image.new("L", (7000, 7000)).save(large, compress_level=1)
    for number in range(folder.FEW + 1):
        path = project.folder / ROOT / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(large)
    project.edit("params.yaml", "dataset: mnist", "dataset: letters")
    stage = Running(project, "python", "-m", "stages.prepare")
    while len(readers := stage.children()) < usable_cores():
        assert stage.process.poll() is None, stage.output()
        time.sleep(0.01)
    os.kill(readers[0], signal.SIGKILL)
    killed = time.monotonic()
    output = stage.end(fails=True)
    assert time.monotonic() - killed < 5  # to read them all takes half a minute
    assert output.startswith("error: data/letters/a/000.png: this picture, or one after it, ")
    assert output.count("\n") == 1
    assert list((project.folder / "data/prepared").iterdir()) == []
    explained(output)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc of Linux")
def test_a_want_of_memory_is_no_fault_of_the_picture(
    letters: Path, explained: Callable[[str], None]
):
    """Else a picture would be left out of the set today, and not tomorrow."""
    Image.new("RGB", (7000, 7000)).save(ROOT / "a/large.png", compress_level=1)
    result = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, Path.cwd()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: data/letters/a/large.png: not enough memory to read it")
    assert result.stderr.count("\n") == 1
    explained(result.stderr)


@pytest.mark.parametrize("name", [".hidden.png", "Thumbs.db", "a.png~", "a.tmp"])
def test_what_is_hidden_or_ignored_is_passed_over(letters: Path, name: str):
    Path(".dvcignore").write_text("Thumbs.db\n*~\n*.tmp\n")
    before = read().about["sha256"]
    (ROOT / "a" / name).write_text("no picture")
    (ROOT / ".DS_Store").touch()
    (ROOT / "README.md").write_text("About these letters")
    (ROOT / ".git").mkdir()
    assert read().about["sha256"] == before


@pytest.mark.parametrize(
    "name", ["with a space", "größer", "日本", "a|b", 'q"uote', "T-shirt, top"]
)
def test_a_class_has_any_printable_name(letters: Path, name: str):
    (ROOT / "b").rename(ROOT / name)
    assert name in read().about["classes"]


def test_a_name_is_the_same_however_the_system_stores_it(letters: Path):
    names = {unicodedata.normalize(form, "größer") for form in ("NFC", "NFD")}
    assert len(names) == 2
    found = []
    for name in sorted(names):
        (ROOT / "b").rename(ROOT / name)
        found.append(read().about)
        (ROOT / name).rename(ROOT / "b")
    assert found[0] == found[1]


def no_picture(root: Path) -> None:
    (root / "a/text.png").write_text("no picture")


def truncated(root: Path) -> None:
    (root / "a/0.png").write_bytes((root / "a/0.png").read_bytes()[:60])


def blank(root: Path) -> None:
    Image.new("L", (40, 40), 255).save(root / "a/blank.png")


def huge(root: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(root / "a/huge.png")


def empty_class(root: Path) -> None:
    (root / "c").mkdir()


def one_class(root: Path) -> None:
    for path in (root / "b").iterdir():
        path.unlink()
    (root / "b").rmdir()


def differ_in_case(root: Path) -> None:
    save(root / "A/0.png", 7)


def line_break(root: Path) -> None:
    save(root / "c\nd/0.png", 7)


def space_at_the_end(root: Path) -> None:
    save(root / "c /0.png", 7)


def link_to_nothing(root: Path) -> None:
    (root / "a/link.png").symlink_to("nothing.png")


def link_to_a_class(root: Path) -> None:
    (root / "c").symlink_to("a")


def nested(root: Path) -> None:
    save(root / "a/more/0.png", 7)


def pipe(root: Path) -> None:
    os.mkfifo(root / "a/pipe.png")


def line_break_in_a_file(root: Path) -> None:
    (root / "a/c\nd.png").write_text("no picture")


def nested_rules(root: Path) -> None:
    (root / "a/.dvcignore").write_text("*.png\n")


def stray(root: Path) -> None:
    save(root / "0.png", 7)


def stored_in_two_ways(root: Path) -> None:
    for form in ("NFC", "NFD"):
        save(root / unicodedata.normalize(form, "größer") / "0.png", 7)


def hidden_by_dvcignore(root: Path) -> None:
    Path(".dvcignore").write_text("*.orig\n")
    save(root / "c.orig/0.png", 7)


def a_third_part(root: Path) -> None:
    for name in ("train/a/0", "train/b/0", "test/a/1", "test/b/1", "val/a/2"):
        save(root / f"{name}.png", 7)
    for name in "ab":
        shutil.rmtree(root / name)


def only_train(root: Path) -> None:
    (root / "train").mkdir()
    for name in "ab":
        (root / name).rename(root / "train" / name)


def beside_train(root: Path) -> None:
    a_third_part(root)
    shutil.rmtree(root / "val")
    save(root / "0.png", 7)


def beside_the_classes_of_train(root: Path) -> None:
    a_third_part(root)
    shutil.rmtree(root / "val")
    save(root / "train/0.png", 7)


def one_class_is_not_tested(root: Path) -> None:
    for name in ("train/a/0", "train/b/0", "test/a/1"):
        save(root / f"{name}.png", ord(name[0]) + len(name))
    for name in "ab":
        for path in (root / name).iterdir():
            path.unlink()
        (root / name).rmdir()


def learned_and_tested(root: Path) -> None:
    one_class_is_not_tested(root)
    save(root / "test/b/2.png", 20)
    save(root / "train/b/again.png", 20)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (
            no_picture,
            "a/text.png: not a picture that can be read (PNG, JPEG, WEBP, GIF, BMP); mend",
        ),
        (truncated, "a/0.png: damaged picture ("),
        (
            blank,
            "a/blank.png: nothing on it: all of it is one colour; mend or remove it, or set prep",
        ),
        (huge, "a/huge.png: larger than 50 megapixels; scale it down; mend or remove it"),
        (empty_class, "c: no pictures of this class; add some or remove the folder"),
        (one_class, ": 1 classes; use 2 to 1000 folders"),
        (differ_in_case, ": the classes A and a differ in case only"),
        (line_break, "c\\nd: the name of a class has printable letters"),
        (
            space_at_the_end,
            "c : the name of a class has printable letters, and no space at its ends",
        ),
        (link_to_nothing, "a/link.png: a link, not to a file; replace it"),
        (link_to_a_class, "c: a link, not to a file; replace it by a folder"),
        (nested, "a/more: a folder in the folder of a class; move its pictures up"),
        (line_break_in_a_file, "a/c\\nd.png: not a picture"),
        (nested_rules, "a/.dvcignore: of these files only the one beside dvc.yaml counts"),
        (pipe, "a/pipe.png: neither a file nor a folder; remove it"),
        (stray, "0.png: beside the folders of the classes; move it into one"),
        (
            stored_in_two_ways,
            ": the classes größer and größer differ in case only, or in how their",
        ),
        (hidden_by_dvcignore, "c.orig: a folder that .dvcignore hides; rename or remove it"),
        (a_third_part, "val: beside train/ and test/; move its pictures into these"),
        (only_train, ": has no test/ beside the other part; add it, or move the folders"),
        (beside_train, "0.png: beside the folders of the classes; move it into one"),
        (beside_the_classes_of_train, "train/0.png: beside the folders of the classes"),
        (one_class_is_not_tested, ": the class b is not in both train/ and test/"),
        (
            learned_and_tested,
            "train/b/again.png and data/letters/test/b/2.png: the same picture",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(
    letters: Path, spoil: Callable[[Path], None], line: str
):
    spoil(ROOT)
    with pytest.raises(UserError) as caught:
        read()
    start = "data/letters" if line.startswith(":") else "data/letters/"
    assert str(caught.value).startswith(start + line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", [no_picture, truncated, blank, huge])
def test_unreadable_pictures_may_be_left_out(
    letters: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None]
):
    spoil(ROOT)
    found = read(skip_unreadable=True)
    assert found.unreadable == 1
    assert len(found.paths) == len(found.images) == (5 if spoil is truncated else 6)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("left out: data/letters/a/")


def test_equal_pictures_with_two_labels_are_told(letters: Path, capsys: pytest.CaptureFixture[str]):
    save(ROOT / "b/copy.png", 0)
    found = read()
    assert found.first.tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert capsys.readouterr().out == (
        "warning: data/letters/a/0.png and data/letters/b/copy.png: the same picture, once laid out, "
        "under two labels; remove one, or try another prepare.layout\n"
    )


def test_a_folder_that_is_not_there_is_one_line(in_empty_folder: Path):
    with pytest.raises(UserError, match=r"^data/letters: no such folder; make it"):
        read()


@pytest.mark.parametrize("layout", ["mnist", "resize"])
def test_the_layout_is_recorded_and_light_on_dark_is_the_same(letters: Path, layout: str):
    found = read(layout=layout)
    assert found.about["layout"] == layout
    for path in found.paths:
        image = Image.open(path)
        Image.eval(image, lambda level: 255 - level).convert("RGB").save(path)
    assert np.abs(read(layout=layout).images.astype(int) - found.images).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_any_usual_format_is_read(letters: Path, form: str):
    expected = read(layout="resize").images
    for path in sorted(ROOT.rglob("*.png")):
        image = Image.open(path)
        image.load()
        path.unlink()
        image.save(path.with_suffix(f".{form.lower()}"), form, quality=95)
    found = read(layout="resize").images
    assert np.abs(found.astype(int) - expected).mean() < 4


def test_a_link_to_a_file_is_that_file(letters: Path):
    """As DVC makes them with `cache.type symlink`."""
    before = read().about
    (ROOT / "a/0.png").rename("elsewhere.png")
    (ROOT / "a/0.png").symlink_to(Path("elsewhere.png").absolute())
    assert read().about == before


def test_a_class_that_skipping_empties_is_told(letters: Path):
    one_class_is_not_tested(ROOT)
    no_picture(ROOT / "test")
    (ROOT / "test/b").mkdir()
    (ROOT / "test/b/text.png").write_text("no picture")
    with pytest.raises(UserError, match="no readable picture of the class b in test/; add some"):
        read(skip_unreadable=True)
