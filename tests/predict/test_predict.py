"""`python -m predict`."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from predict.model import Model
from predict.pictures import FORMATS, MAX_STDIN
from stages.datasets import pictures
from tests.predict.demo import png
from tests.predict.drawings import DRAWINGS, draw
from tests.predict.models import CERTAIN, CLASSES, DATASET, write_model
from tests.project import ROOT, clean_environment
from tests.samples import read_drawing, read_sheet

COMMAND = [sys.executable, "-m", "predict", "--model"]


def predict(
    model: Path, *arguments: object, code: int = 0, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess:
    """Run `python -m predict`; fail unless it ends with `code` and without a traceback."""
    result = subprocess.run(
        [*COMMAND, str(model), *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(ROOT) | environment,
        input=stdin,
        capture_output=True,
        check=False,
    )
    assert result.returncode == code, result.stderr.decode()
    assert b"Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose prediction is always 3."""
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", CERTAIN)


def test_the_examples_of_the_readme(model_file: Path):
    examples = ["predict/examples/three.png", "predict/examples/photos/"]
    lines = predict(model_file, *examples).stdout.decode().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["predict/examples/three.png", "3"],
        ["predict/examples/photos/five.jpg", "5"],
        ["predict/examples/photos/seven.webp", "7"],
    ]


def test_a_folder_prints_a_line_for_each_picture(model_file: Path, tmp_path: Path):
    for digit in DRAWINGS:
        draw(digit).save(tmp_path / f"{digit}.PNG")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.png").mkdir()
    draw(7).save(tmp_path / "a longer name.jpg")
    lines = predict(model_file, tmp_path, tmp_path / "7.PNG").stdout.decode().splitlines()
    width = len(str(tmp_path / "a longer name.jpg"))
    assert [line[:width].rstrip().rpartition("/")[2] for line in lines] == [
        *(f"{digit}.PNG" for digit in DRAWINGS),
        "a longer name.jpg",
        "7.PNG",
    ]
    assert [int(line[width + 2]) for line in lines] == [*DRAWINGS, 7, 7]
    assert len({len(line) for line in lines}) == 1  # aligned


def test_other_files_of_a_folder_are_one_line_and_hidden_ones_are_none(
    constant: Path, tmp_path: Path
):
    names = ["a.jfif", "b.JPE", "c.tif", "d.tiff", "e.apng"]
    for name in names:
        draw(3).save(tmp_path / name)
    for name in ("f.csv", "g.CSV", "h.txt", "notes", ".DS_Store", "._a.jfif"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / "@eaDir").mkdir()
    result = predict(constant, tmp_path)
    assert [line.split()[0] for line in result.stdout.decode().splitlines()] == [
        str(tmp_path / name) for name in names
    ]
    assert result.stderr.decode() == (
        f"skipped: {tmp_path}: 4 not named as pictures of PNG, JPEG, WEBP, GIF, BMP, TIFF, HEIF "
        "(.csv, .txt, no suffix)\n"
    )


def test_heic_is_read_if_its_package_is_installed(model_file: Path, tmp_path: Path):
    pillow_heif.from_pillow(draw(3)).save(tmp_path / "three.heic", quality=90)
    assert predict(model_file, tmp_path).stdout.split()[1] == b"3"
    (tmp_path / "pillow_heif.py").write_text("raise ImportError")
    hint = "; `pip install pillow-heif` adds HEIC\n"
    for argument, end in (
        (tmp_path / "three.heic", f"can be read ({', '.join(pictures.FORMATS)}){hint}"),
        (tmp_path, f"(.heic, .py){hint}"),
    ):
        result = predict(model_file, argument, code=1, PYTHONPATH=str(tmp_path))
        assert end in result.stderr.decode()


def test_one_name_that_cannot_be_used_leaves_the_others(constant: Path, tmp_path: Path):
    """A name of more than 255 bytes ended the command."""
    draw(3).save(tmp_path / "three.png")
    result = predict(constant, "x" * 256, tmp_path / "three.png", code=1)
    assert result.stdout.count(b"\n") == 1
    assert result.stderr.decode() == f"error: {'x' * 256}: File name too long\n"


def test_json_and_standard_input(model_file: Path):
    content = png(draw(3))
    prediction = json.loads(predict(model_file, "--json", "-", stdin=content).stdout)
    expected = Model(model_file)(read_drawing(io.BytesIO(content))[None, None])[0]
    probabilities = list(prediction["probabilities"].values())
    assert (prediction["path"], prediction["class"]) == ("-", "3")
    assert list(prediction["probabilities"]) == CLASSES
    assert probabilities == pytest.approx(expected.tolist(), abs=1e-6)
    *_, second, first = sorted(probabilities)
    assert (prediction["probability"], prediction["runner_up_probability"]) == (first, second)
    assert prediction["probabilities"][prediction["runner_up"]] == second


def test_standard_input_is_limited(constant: Path):
    result = predict(constant, "-", code=1, stdin=bytes(MAX_STDIN + 1))
    assert result.stderr == b"error: -: larger than 100 megabytes; scale it down\n"


def test_a_file_may_be_named_like_standard_input(model_file: Path, tmp_path: Path):
    draw(7).save(tmp_path / "-", "PNG")
    result = predict(model_file, "-", f"{tmp_path}/-", stdin=png(draw(3)))
    assert [line.split()[1] for line in result.stdout.decode().splitlines()] == ["3", "7"]


def test_pictures_keep_their_order_across_batches(constant: Path, tmp_path: Path):
    image = png(draw(1, side=28))
    for number in range(300):
        (tmp_path / f"{number:03}.png").write_bytes(image)
    (tmp_path / "270.png").write_bytes(b"")
    result = predict(constant, "--json", tmp_path, code=1)
    paths = [json.loads(line)["path"] for line in result.stdout.splitlines()]
    assert paths == [str(tmp_path / f"{number:03}.png") for number in range(300) if number != 270]


def test_unreadable_files_get_a_line_each(model_file: Path, tmp_path: Path):
    draw(2).save(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "cut.png").write_bytes(png(draw(2))[:600])
    Image.new("L", (50, 50)).save(tmp_path / "blank.png")
    Image.new("1", (10_000, 6_000)).save(tmp_path / "huge.png")
    (tmp_path / "two\nlines.png").touch()
    (tmp_path / "link.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nothing").mkdir()
    result = predict(
        model_file, tmp_path, tmp_path / "nothing", tmp_path / "missing.png", "", code=1
    )
    assert result.stdout.decode().split()[:2] == [str(tmp_path / "good.png"), "2"]
    assert result.stdout.count(b"\n") == 1
    lines = result.stderr.decode().splitlines()
    assert "error: an empty name; give a picture, a folder, or - for standard input" in lines
    reasons = dict(
        line.removeprefix(f"error: {tmp_path}/").split(": ", 1) for line in lines if "/" in line
    )
    formats = f"({', '.join(FORMATS)})"
    assert reasons.pop("cut.png").startswith("damaged picture")
    assert reasons.pop("blank.png").startswith("nothing on it")
    assert reasons.pop("huge.png").startswith("larger than 50 megapixels")
    assert reasons == {
        "empty.png": "an empty file; copy it again",
        "pipe.png": "a pipe or a device; remove it, or read it as - < FILE",
        "text.png": f"not a picture that can be read {formats}",
        "two\\nlines.png": "an empty file; copy it again",
        "link.png": "No such file or directory",
        "nothing": f"no pictures in this folder {formats}; --recursive also reads subfolders",
        "missing.png": "No such file or directory",
    }


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two pictures of a 3, one of which is in the folder of another class, and files to skip."""
    for name in ("3/a.png", "8/wrong.png", ".hidden/3/c.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        draw(3).save(tmp_path / name)
    (tmp_path / "8/again").symlink_to(tmp_path)
    return tmp_path


def test_subfolders_are_read_if_asked_for(constant: Path, labelled: Path):
    printed = predict(constant, "--recursive", labelled).stdout.decode().splitlines()
    assert [line.split()[0] for line in printed] == [
        f"{labelled}/3/a.png",
        f"{labelled}/8/wrong.png",
    ]


def test_labelled_folders_give_an_accuracy_and_the_mistakes(constant: Path, labelled: Path):
    *_, accuracy, pair, mistake = predict(constant, "--labelled", labelled).stdout.splitlines()
    assert accuracy == b"accuracy: 50.00% (1 of 2 pictures)"
    assert pair == b"8 as 3: 1"
    assert mistake.decode() == f"mistake: {labelled}/8/wrong.png: 3"
    (labelled / "8").rename(labelled / "a dog")
    result = predict(constant, "--labelled", "--json", labelled, code=1)
    assert json.loads(result.stdout)["path"] == f"{labelled}/3/a.png"
    assert result.stderr.decode().splitlines() == [
        f"error: {labelled}/a dog/wrong.png: its folder, a dog, is no class of the model; rename or "
        "move it",
        "accuracy: 100.00% (1 of 1 pictures)",
    ]


def test_a_table_has_as_many_classes_as_asked_for(constant: Path, tmp_path: Path):
    path = tmp_path / "a, b.png"
    draw(3).save(path)
    rows = list(csv.reader(predict(constant, "--csv", path).stdout.decode().splitlines()))
    assert rows[0] == ["path", "class_1", "probability_1", "class_2", "probability_2", "unsure"]
    assert rows[1][:3] == [str(path), "3", "1.0"]
    rows = list(
        csv.reader(predict(constant, "--csv", "--top=99", path).stdout.decode().split("\n"))
    )
    assert len(rows[0]) == len(rows[1]) == 2 + 2 * len(CLASSES)
    [line] = predict(constant, "--top=1", path).stdout.decode().splitlines()
    assert line.endswith("3  100.00%")
    assert b"--top 0: use 1 or more" in predict(constant, "--top=0", path, code=2).stderr


def test_improbable_answers_are_unsure(tmp_path: Path):
    """The threshold is the model's, 0.9, or the user's."""
    draw(3).save(tmp_path / "three.png")
    likely = write_model(tmp_path / "likely.onnx", [0.0] * 3 + [0.91, 0.09] + [0.0] * 5)
    perhaps = write_model(tmp_path / "perhaps.onnx", [0.0] * 3 + [0.89, 0.11] + [0.0] * 5)

    def unsure(model: Path, *options: str) -> bool:
        picture = tmp_path / "three.png"
        text = predict(model, picture, *options).stdout.decode()
        found = json.loads(predict(model, "--json", picture, *options).stdout)["unsure"]
        _, row = csv.reader(predict(model, "--csv", picture, *options).stdout.decode().splitlines())
        assert text.endswith("  unsure\n") == found == bool(int(row[-1]))
        return found

    assert [unsure(likely), unsure(perhaps)] == [False, True]
    assert [unsure(likely, "--unsure=0.95"), unsure(perhaps, "--unsure=0")] == [True, False]
    assert b"--unsure 2.0: use 0" in predict(likely, "--unsure=2", "x", code=2).stderr


def test_a_damaged_model_is_one_line(tmp_path: Path):
    (tmp_path / "model.onnx").write_text("text")
    result = predict(tmp_path / "model.onnx", "predict/examples", code=1)
    assert result.stdout == b""
    assert result.stderr.decode().startswith(f"error: {tmp_path}/model.onnx: not an ONNX file")
    assert result.stderr.count(b"\n") == 1


def test_the_sheet_shows_the_networks_input(constant: Path, tmp_path: Path):
    for digit in (0, 1):
        draw(digit).save(tmp_path / f"{digit}.png")
    sheet_path = tmp_path / "sheets/sheet.svg"
    assert b"no such folder" in predict(constant, "--show", sheet_path, tmp_path, code=2).stderr
    assert not sheet_path.parent.exists()
    sheet_path.parent.mkdir()
    predict(constant, "--show", sheet_path, tmp_path)
    sheet, captions = read_sheet(sheet_path.read_bytes())
    cell = np.asarray(sheet)[4 : 4 + 84 : 3, 4 : 4 + 84 : 3]
    assert np.array_equal(cell, 255 - read_drawing(io.BytesIO(png(draw(0)))))
    assert captions[::2] == ["3", "3"]
    assert b"must end in .svg" in predict(constant, "--show", "sheet.jpg", "-", code=2).stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_terminal_cannot_print_are_escaped(tmp_path: Path, encoding: str):
    """Neither file names nor class names send control characters to the terminal."""
    classes = [f"\x1b[31m{name}\n" for name in CLASSES]
    model = write_model(tmp_path / "model.onnx", CERTAIN, DATASET | {"classes": classes})
    draw(3).save(tmp_path / "drei-größer.png")
    draw(3).save(os.fsencode(tmp_path) + b"/\xff.png")
    output = predict(model, tmp_path, PYTHONIOENCODING=encoding).stdout
    assert output.count(b"\n") == 2
    assert b"\x1b" not in output


def test_a_full_disk_is_one_line(constant: Path):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        result = subprocess.run(
            [*COMMAND, constant, "predict/examples"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "error: standard output: No space left on device\n"


def test_a_closed_pipe_is_not_an_error_message(constant: Path, tmp_path: Path):
    draw(1, side=28).save(tmp_path / "1.png")
    pictures = [str(tmp_path / "1.png")] * 600
    with subprocess.Popen(
        [*COMMAND, constant, "--json", *pictures],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        assert process.stderr.read() == b""


def test_neither_torch_nor_scikit_learn_is_imported():
    code = "import sys, predict.__main__, predict.demo.server; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "onnxruntime" in modules
    assert {"torch", "sklearn", "dvc", "onnx"}.isdisjoint(modules)
