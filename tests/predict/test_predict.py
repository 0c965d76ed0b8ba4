"""`python -m predict`: pictures of any kind, and what it says of files that are none."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from predict.model import Model
from stages.datasets import pictures
from stages.datasets.pictures import MAX_PIXELS, EmptyPictureError, PictureError
from tests.predict.drawings import DRAWINGS, draw
from tests.project import ROOT, clean_environment


@pytest.fixture(scope="session")
def model(model_file: Path) -> Model:
    return Model(model_file)


def predict(
    *arguments: object,
    code: int = 0,
    stdin: bytes | BinaryIO = b"",
    environment: dict | None = None,
) -> subprocess.CompletedProcess:
    """Run `python -m predict`; it must end with `code` and without a traceback."""
    result = subprocess.run(
        [sys.executable, "-m", "predict", *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(ROOT) | (environment or {}),
        capture_output=True,
        check=False,
        **({"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}),
    )
    assert result.returncode == code, result.stderr.decode()
    assert b"Traceback" not in result.stderr
    return result


def read_picture(source: Path | io.BytesIO) -> np.ndarray:
    return pictures.read_picture(source, "mnist")


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    buffer.seek(0)
    return buffer


def coloured(image: Image.Image, paper: str, ink: str) -> Image.Image:
    return ImageOps.colorize(image, black=ink, white=paper)


def with_alpha(image: Image.Image, ink: str) -> Image.Image:
    picture = Image.new("RGBA", image.size, ink)
    picture.putalpha(ImageOps.invert(image))
    return picture


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 12, (image.height, image.width))
    return Image.fromarray((np.asarray(image) * 0.7 + 40 + noise).clip(0, 255).astype(np.uint8))


def unevenly_lit(image: Image.Image) -> Image.Image:
    light = np.linspace(0.5, 1, image.width) * np.linspace(1, 0.8, image.height)[:, None]
    return Image.fromarray(((np.asarray(image) * 0.7 + 40) * light).astype(np.uint8))


def cut_out(image: Image.Image) -> Image.Image:
    return image.crop(ImageOps.invert(image).getbbox())


def in_half_a_shadow(image: Image.Image) -> Image.Image:
    light = Image.new("L", image.size, 255)
    corners = (
        (0, 0),
        (0.55 * image.width, 0),
        (0.3 * image.width, image.height),
        (0, image.height),
    )
    ImageDraw.Draw(light).polygon(corners, fill=150)
    light = np.asarray(light.filter(ImageFilter.GaussianBlur(image.width / 40))) / 255
    return Image.fromarray(((np.asarray(image) * 0.8 + 30) * light).astype(np.uint8))


def faint(image: Image.Image) -> Image.Image:
    return image.point(lambda level: 200 + level * 40 // 255)


def specked(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).copy()
    rows, columns = np.random.default_rng(0).integers(0, min(image.size), (2, 40))
    for row, column in zip(rows, columns, strict=True):
        pixels[row : row + 4, column : column + 4] = 0
    return Image.fromarray(pixels)


def framed(image: Image.Image, inset: int) -> Image.Image:
    picture = image.copy()
    box = (inset, inset, image.width - 1 - inset, image.height - 1 - inset)
    ImageDraw.Draw(picture).rectangle(box, outline=60, width=4)
    return picture


def beside_the_desk(image: Image.Image) -> Image.Image:
    picture = image.copy()
    corners = ((0, 0), (image.width // 8, 0), (0, image.height))
    ImageDraw.Draw(picture).polygon(corners, fill=30)
    return picture


def off_centre(image: Image.Image) -> Image.Image:
    wide = Image.new("L", (900, 600), 255)
    wide.paste(image.resize((330, 330)), (550, 30))
    return wide


VARIANTS = {
    "light on dark": lambda image: encoded(ImageOps.invert(image)),
    "jpeg": lambda image: encoded(image, "JPEG", quality=30),
    "webp": lambda image: encoded(image, "WEBP", quality=50),
    "bmp": lambda image: encoded(image, "BMP"),
    "gif": lambda image: encoded(image, "GIF"),
    "two colours": lambda image: encoded(image.convert("1")),
    "palette": lambda image: encoded(coloured(image, "ivory", "navy").quantize(8)),
    "yellow on white": lambda image: encoded(coloured(image, "white", "gold")),
    "red on green of equal grey": lambda image: encoded(coloured(image, "#3c963c", "#c84646")),
    "16 bits of grey": lambda image: encoded(
        Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    ),
    "black on transparent": lambda image: encoded(with_alpha(image, "black")),
    "white on transparent": lambda image: encoded(with_alpha(image, "white")),
    "small": lambda image: encoded(image.resize((40, 40))),
    "off-centre": lambda image: encoded(off_centre(image)),
    "noise": lambda image: encoded(noisy(image)),
    "uneven light": lambda image: encoded(unevenly_lit(image), "JPEG", quality=70),
    "small, in uneven light": lambda image: encoded(unevenly_lit(image.resize((56, 56)))),
    "12 of 16 bits of grey": lambda image: encoded(
        Image.fromarray(np.asarray(image).astype(np.uint16) * 16)
    ),
    "half a shadow": lambda image: encoded(in_half_a_shadow(image), "JPEG", quality=80),
    "faint": lambda image: encoded(faint(image)),
    "specks": lambda image: encoded(specked(image)),
    "a frame at the edge": lambda image: encoded(framed(image, 0)),
    "a frame": lambda image: encoded(framed(image, 15)),
    "a dark edge": lambda image: encoded(beside_the_desk(image), "JPEG", quality=70),
    "cut out": lambda image: encoded(cut_out(image)),
}


@pytest.mark.parametrize("pen", [0.01, 0.04, 0.07])
@pytest.mark.parametrize("digit", DRAWINGS)
def test_drawings_are_recognised_with_any_pen(model: Model, digit: int, pen: float):
    assert model(read_picture(encoded(draw(digit, pen=pen)))[None]).argmax() == digit


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_same_digit_in_any_kind_of_picture(model: Model, variant: str):
    seen = np.stack([read_picture(VARIANTS[variant](draw(digit))) for digit in DRAWINGS])
    assert model(seen).argmax(axis=1).tolist() == list(DRAWINGS)


def test_a_picture_is_laid_out_as_mnist_lays_out_its_own():
    seen = read_picture(encoded(draw(3)))
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    centre = (seen.sum(axis=1) @ np.arange(28)) / seen.sum()
    assert centre == pytest.approx(14, abs=0.5)
    assert 0.02 < ((seen > 20) & (seen < 235)).mean() < 0.2  # its edges stay grey


@pytest.mark.parametrize("flip", [False, True])
def test_what_is_in_mnist_form_stays_as_it_is(flip: bool):
    image = read_picture(encoded(draw(2)))
    file = encoded(Image.fromarray(255 - image if flip else image))
    assert np.array_equal(read_picture(file), image)


def test_what_only_looks_like_mnist_form_is_laid_out_anew():
    image = read_picture(encoded(draw(2)))
    for moved in (np.roll(image, 3, axis=0), np.roll(image, -3, axis=1)):
        assert abs(read_picture(encoded(Image.fromarray(moved))).astype(int) - image).mean() < 3
    small = Image.fromarray(image).resize((21, 21), Image.Resampling.BICUBIC)
    field = Image.new("L", (28, 28))
    field.paste(small, (4, 4))  # centred, and 15 pixels high
    rows = np.flatnonzero((read_picture(encoded(field)) > 64).any(axis=1))
    assert np.ptp(rows) + 1 >= 19


def test_a_thin_stroke_does_not_fade():
    assert (read_picture(encoded(draw(1, pen=0.005))) > 200).sum() >= 20


def test_the_texture_of_paper_does_not_outweigh_a_thin_stroke():
    """Its mean is not its median: all pixels together differ from it more than the stroke does."""
    texture = np.where(np.random.default_rng(0).random((250, 250)) < 0.4, 20, 0)
    pixels = np.minimum(np.asarray(draw(1, side=250, pen=0.02)), 230) + texture
    seen = read_picture(encoded(Image.fromarray(pixels.astype(np.uint8))))
    assert (seen > 127).mean() < 0.15  # a stroke, not all but a stroke


def test_parts_of_a_digit_belong_to_it(model: Model):
    zero = draw(0)
    ImageDraw.Draw(zero).ellipse((178, 178, 222, 222), fill=0)
    five = np.asarray(draw(5)).copy()
    five[60:110, 175:195] = 255  # parts the flag from the body
    five = Image.fromarray(five).crop((100, 0, 300, 310))  # which touches the edge
    seen = np.stack([read_picture(encoded(image)) for image in (zero, five)])
    assert model(seen).argmax(axis=1).tolist() == [0, 5]
    assert seen[0, 13:15, 13:15].min() > 0


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photograph_is_turned_as_its_exif_data_say(orientation: int):
    turn_back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's Transpose
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = draw(2).transpose(Image.Transpose(turn_back[orientation]))
    seen = read_picture(encoded(stored, "JPEG", quality=95, exif=exif)).astype(int)
    assert abs(seen - read_picture(encoded(draw(2)))).mean() < 4


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (300, 200)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_picture_of_nothing_has_no_digit(mode: str, size: tuple[int, int]):
    with pytest.raises(EmptyPictureError, match="nothing on it"):
        read_picture(encoded(Image.new(mode, size)))


def test_noise_is_no_digit():
    noise = np.random.default_rng(0).normal(200, 12, (300, 300)).astype(np.uint8)
    with pytest.raises(EmptyPictureError, match="hardly any contrast"):
        read_picture(encoded(Image.fromarray(noise)))


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch):
    for height in (5_001, 20_000):  # Pillow only warns of the first
        bomb = encoded(Image.new("1", (10_000, height)))
        assert len(bomb.getvalue()) < 1_000_000 < MAX_PIXELS
        monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was read"))
        with pytest.raises(PictureError, match="larger than 50 megapixels"):
            read_picture(bomb)
        monkeypatch.undo()


def test_any_damage_is_one_line():
    """Pillow raises many kinds of errors for damaged data; none of them may come through."""
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        content = encoded(draw(5, side=64), form).getvalue()
        for _ in range(60):
            damaged = bytearray(content[: random.integers(0, len(content) + 1)])
            for place in random.integers(0, max(1, len(damaged)), 4):
                damaged[place : place + 1] = random.bytes(1)
            try:
                assert read_picture(io.BytesIO(damaged)).shape == (28, 28)
            except PictureError as error:
                assert "\n" not in str(error)


def test_a_line_for_each_picture(model_file: Path, tmp_path: Path):
    for digit in DRAWINGS:
        draw(digit).save(tmp_path / f"{digit}.PNG")
    (tmp_path / "notes.txt").touch()
    draw(7).save(tmp_path / "a longer name.jpg")
    output = predict("--model", model_file, tmp_path, tmp_path / "7.PNG").stdout.decode()
    lines = output.splitlines()
    names = [line.split("  ")[0].strip().rpartition("/")[2] for line in lines]
    assert names == [*(f"{digit}.PNG" for digit in DRAWINGS), "a longer name.jpg", "7.PNG"]
    width = len(str(tmp_path / "a longer name.jpg"))
    assert [int(line[width + 2]) for line in lines] == [*DRAWINGS, 7, 7]
    assert len({len(line) for line in lines}) == 1  # aligned


def test_json_lines_and_standard_input(model_file: Path, model: Model):
    content = encoded(draw(3)).getvalue()
    output = predict("--model", model_file, "--json", "-", stdin=content).stdout
    answer = json.loads(output)
    expected = model(read_picture(io.BytesIO(content))[None])[0]
    assert (answer["path"], answer["class"]) == ("-", "3")
    assert list(answer["probabilities"]) == list("0123456789")
    probabilities = list(answer["probabilities"].values())
    assert probabilities == pytest.approx(expected.tolist(), abs=1e-6)
    assert answer["probability"] == max(probabilities)
    ordered = sorted(probabilities)
    assert answer["runner_up_probability"] == ordered[-2]
    assert answer["probabilities"][answer["runner_up"]] == ordered[-2]


def test_more_pictures_than_a_batch(model_file: Path, tmp_path: Path):
    image = encoded(draw(1, side=28)).getvalue()
    for number in range(300):
        (tmp_path / f"{number:03}.png").write_bytes(image)
    (tmp_path / "270.png").write_bytes(b"")
    result = predict("--model", model_file, "--json", tmp_path, code=1)
    paths = [json.loads(line)["path"] for line in result.stdout.splitlines()]
    assert paths == [str(tmp_path / f"{number:03}.png") for number in range(300) if number != 270]


def test_a_file_may_have_the_name_of_standard_input(model_file: Path, tmp_path: Path):
    draw(7).save(tmp_path / "-", "PNG")
    three = encoded(draw(3)).getvalue()
    result = predict("--model", model_file, "-", f"{tmp_path}/-", stdin=three)
    assert [line.split()[1] for line in result.stdout.decode().splitlines()] == ["3", "7"]
    assert b"error: an empty name" in predict("--model", model_file, "", code=1).stderr


def test_an_odd_name_on_an_odd_terminal(model_file: Path, tmp_path: Path):
    draw(3).save(tmp_path / "drei-größer.png")
    draw(3).save(os.fsencode(tmp_path) + b"/\xff.png")
    for encoding in ("ascii", "latin-1", "utf-8"):
        result = predict(
            "--model", model_file, tmp_path, environment={"PYTHONIOENCODING": encoding}
        )
        assert result.stdout.count(b"\n") == 2


@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        (">/dev/full", 1, "error: standard output: No space left on device\n"),
        ("<&-", 1, "error: -: standard input is closed\n"),
        (">&-", 0, ""),
    ],
)
def test_standard_streams_may_be_closed_or_full(
    model_file: Path, redirection: str, code: int, told: str
):
    name = "-" if redirection.startswith("<") else "predict/examples"
    command = f'"$0" -m predict --model "$1" {name} {redirection}'
    result = subprocess.run(
        ["sh", "-c", command, sys.executable, model_file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (code, told)


def test_the_sheet_shows_what_the_network_saw(model_file: Path, tmp_path: Path):
    draw(0).save(tmp_path / "0.png")
    draw(1).save(tmp_path / "1.png")
    predict("--model", model_file, "--show", tmp_path / "sheet/seen.png", tmp_path)
    with Image.open(tmp_path / "sheet/seen.png") as sheet:
        cell = np.asarray(sheet)[8 : 8 + 84 : 3, 8 : 8 + 84 : 3]
    assert np.array_equal(cell, 255 - read_picture(tmp_path / "0.png"))


def test_a_sheet_must_be_a_png(model_file: Path):
    assert b"must end in .png" in predict("--show", "a.jpg", "-", code=2).stderr


def test_bad_files_get_a_line_each_and_the_others_an_answer(model_file: Path, tmp_path: Path):
    draw(2).save(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(encoded(draw(2)).getvalue()[:600])
    Image.new("L", (50, 50)).save(tmp_path / "blank.png")
    Image.new("1", (10_000, 6_000)).save(tmp_path / "huge.png")
    (tmp_path / "two\nlines.png").touch()
    (tmp_path / "nothing").mkdir()
    secret = tmp_path / "secret.png"
    secret.touch(mode=0)
    result = predict(
        "--model", model_file, tmp_path, tmp_path / "nothing", tmp_path / "missing.png", code=1
    )
    assert result.stdout.decode().split()[:2] == [str(tmp_path / "good.png"), "2"]
    assert result.stdout.count(b"\n") == 1
    told = dict(
        line.removeprefix(f"error: {tmp_path}/").split(": ", 1)
        for line in result.stderr.decode().splitlines()
    )
    formats = "(PNG, JPEG, WEBP, GIF, BMP)"
    no_picture = f"not a picture that can be read {formats}"
    assert told.pop("cut.png").startswith("damaged picture (")
    # The superuser may read everything.
    assert told.pop("secret.png") == (no_picture if os.geteuid() == 0 else "Permission denied")
    assert told == {
        "empty.png": no_picture,
        "text.png": no_picture,
        "two\\nlines.png": no_picture,
        "blank.png": "nothing on it: all of it is one colour",
        "huge.png": "larger than 50 megapixels; scale it down",
        "nothing": f"no pictures in this folder {formats}",
        "missing.png": "No such file or directory",
    }


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        (b"", "not an ONNX file, or damaged"),
        (b"no model", "not an ONNX file, or damaged ("),
    ],
)
def test_a_missing_or_damaged_model_says_what_to_do(
    tmp_path: Path, content: bytes | None, problem: str
):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    stderr = predict("--model", path, "-", code=1).stderr.decode()
    assert stderr.startswith(f"error: {path}: {problem}")
    assert stderr.endswith("`dvc repro`\n")
    assert stderr.count("\n") == 1


def test_a_pipe_in_a_folder_is_not_waited_for(model_file: Path, tmp_path: Path):
    draw(3).save(tmp_path / "3.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    result = predict("--model", model_file, tmp_path, code=1)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr.decode() == f"error: {tmp_path}/link.png: No such file or directory\n"


def test_the_examples_of_the_readme(model_file: Path):
    examples = ["predict/examples/three.png", "predict/examples/photos/"]
    lines = predict("--model", model_file, *examples).stdout.decode().splitlines()
    names, digits = zip(*(line.split()[:2] for line in lines), strict=True)
    assert names == tuple(
        f"predict/examples/{name}" for name in ("three.png", "photos/five.jpg", "photos/seven.webp")
    )
    assert digits == ("3", "5", "7")


def test_a_reader_that_has_read_enough_sees_no_traceback(model_file: Path, tmp_path: Path):
    draw(1, side=28).save(tmp_path / "1.png")
    pictures = [str(tmp_path / "1.png")] * 600
    command = [sys.executable, "-m", "predict", "--json", "--model", str(model_file), *pictures]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_neither_torch_nor_scikit_learn_is_imported():
    code = "import sys, predict.__main__, predict.demo.server; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "onnxruntime" in modules
    assert {"torch", "sklearn", "dvc", "onnx"}.isdisjoint(modules)
