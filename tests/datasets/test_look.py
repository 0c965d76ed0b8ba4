"""A folder of pictures is laid out as drawings or as photographs, of any size and colour."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stages.datasets.dataset import Dataset, load
from stages.datasets.layout import read_picture
from stages.datasets.look import choose, look
from stages.datasets.params import PrepareParams
from stages.runtime.errors import UserError
from tests.samples import AnyInputs

COUNT = 40
RED, GREEN, BLUE, GREY, WHITE = (
    (200, 30, 30),
    (30, 160, 30),
    (40, 40, 220),
    (90, 90, 90),
    (255, 255, 255),
)


def shape(number: int, ink: tuple, paper: tuple = WHITE, size: int = 100) -> Image.Image:
    """A disc or a line, in a place of its own."""
    picture = Image.new("RGB", (100, 100), paper)
    x, y, radius = 30 + number % 7 * 5, 30 + number % 5 * 8, 8 + number % 3 * 5
    if number % 2:
        ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    else:
        ImageDraw.Draw(picture).line((x - 15, y, x + 25, y + 30), fill=ink, width=6)
    return picture.resize((size, size))


def in_lamplight(picture: Image.Image) -> Image.Image:
    light = np.linspace(0.7, 1, picture.width)[None, :, None] * [1, 0.95, 0.85]
    noise = np.random.default_rng(0).normal(0, 3, (*picture.size, 3))
    return Image.fromarray((np.asarray(picture) * light + noise).clip(0, 255).astype(np.uint8))


def scene(number: int) -> Image.Image:
    """Sky, ground of several colours, and things on it."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((90, 60), Image.Resampling.BICUBIC)


def scan(number: int) -> Image.Image:
    """Grey tissue in a light ring on black, as in radiology: much paper, but hardly any ink."""
    tissue = np.random.default_rng(number).integers(50, 110, (64, 64))
    y, x = np.mgrid[-32:32, -32:32]
    radius = np.hypot(x, y)
    levels = np.where(radius < 21, tissue, np.where(radius < 23, 220, 0))
    return Image.fromarray(levels.astype(np.uint8))


SETS = {
    "black on white": ("drawing", lambda number: shape(number, GREY)),
    "white on blue": ("drawing", lambda number: shape(number, WHITE, BLUE)),
    "one blue pen": ("drawing", lambda number: shape(number, BLUE)),
    "light and dark paper": (
        "drawing",
        lambda number: shape(number, GREY) if number % 3 else shape(number, WHITE, (10, 10, 10)),
    ),
    "photographed by lamplight": ("drawing", lambda number: in_lamplight(shape(number, GREY))),
    "pens of three colours": (
        "photo",
        lambda number: shape(number, (RED, GREEN, BLUE)[number % 3]),
    ),
    "scenes": ("photo", scene),
    "grey scenes": ("photo", lambda number: scene(number).convert("L")),
    "scans": ("photo", scan),
    "no contrast": ("photo", lambda number: Image.new("RGB", (40, 40), WHITE)),
}


def encoded(picture: Image.Image) -> io.BytesIO:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer


@pytest.mark.parametrize("name", SETS)
def test_the_layout_is_chosen_by_all_pictures(name: str):
    expected, draw = SETS[name]
    layout, _, drawings = choose([look(encoded(draw(number))) for number in range(COUNT)])
    assert layout == expected
    assert drawings >= 0.9 * COUNT if layout == "drawing" else drawings <= 0.4 * COUNT


@pytest.fixture
def colours(in_empty_folder: Path) -> Path:
    """Discs of two colours: the colour alone decides the class."""
    root = Path("data/colours")
    for name, ink in (("red", RED), ("blue", BLUE)):
        (root / name).mkdir(parents=True)
        for number in range(10):
            shape(number, ink, size=48).save(root / name / f"{number}.png")
    return root


def load_colours(**changes: object) -> Dataset:
    defaults: dict = {"dataset": "colours", "validation_size": 0.1, "seed": 0, "test_share": None}
    defaults |= {"layout": None, "size": None, "skip_unreadable": None}
    return load(PrepareParams(**defaults | changes), AnyInputs())


def test_photographs_keep_their_colours(colours: Path, capsys: pytest.CaptureFixture[str]):
    dataset = load_colours()
    assert capsys.readouterr().out == (
        "layout: photo, size: 48 (10 of 20 pictures look like drawings in one colour); set "
        "prepare.layout and prepare.size to choose others\n"
    )
    assert dataset.images.shape == (20, 3, 48, 48)
    assert dataset.about["layout"] == "photo"
    for image, path in zip(dataset.images, sorted(colours.rglob("*.png")), strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(image, np.asarray(picture).transpose(2, 0, 1))


def test_drawings_have_the_size_of_mnist(colours: Path, capsys: pytest.CaptureFixture[str]):
    for path in (colours / "red").iterdir():
        shape(7, BLUE, size=48 + int(path.stem)).save(path)
    assert load_colours().images.shape == (20, 1, 28, 28)
    assert capsys.readouterr().out.startswith("layout: drawing, size: 28 (20 of 20 pictures look ")


def test_params_go_before_the_sets_own_description(colours: Path):
    (colours / "dataset.yaml").write_text("title: Two colours\nlayout: drawing\nsize: 20\n")
    dataset = load_colours()
    assert dataset.images.shape == (20, 1, 20, 20)
    assert (dataset.about["title"], dataset.about["layout"]) == ("Two colours", "drawing")
    assert load_colours(layout="photo").images.shape == (20, 3, 20, 20)
    assert load_colours(size=32).images.shape == (20, 1, 32, 32)
    (colours / "dataset.yaml").write_text("sise: 20\n")
    with pytest.raises(
        UserError, match=r"^data/colours/dataset.yaml: sise: unknown key; allowed are"
    ):
        load_colours()


def test_a_grey_set_has_one_channel(colours: Path):
    for path in colours.rglob("*.png"):
        with Image.open(path) as picture:
            picture.convert("L").convert("RGB").save(path)
    images = load_colours(layout="photo").images
    assert images.shape == (20, 1, 48, 48)
    with Image.open(colours / "blue/0.png") as picture:
        assert np.array_equal(images[0, 0], np.asarray(picture)[..., 0])


@pytest.mark.parametrize(("side", "size"), [(9, 28), (28, 28), (40, 40), (500, 64)])
def test_photographs_are_as_large_as_most_are_within_limits(side: int, size: int):
    pictures = [scene(number).resize((side, side // 2)) for number in range(5)]
    assert choose([look(encoded(picture)) for picture in pictures])[:2] == ("photo", size)


def test_a_photograph_is_whole_and_never_inverted():
    """A light border is no paper."""
    picture = Image.new("RGB", (200, 100), (250, 240, 230))
    picture.paste(RED, (100, 0, 200, 100))
    image = read_picture(encoded(picture), "photo", (3, 16, 16))
    assert image[:, 8, 2].tolist() == [250, 240, 230]
    assert image[:, 8, 13].tolist() == list(RED)
    grey = read_picture(encoded(picture), "photo", (1, 16, 16))
    assert grey[0, 8, 2] == round(0.299 * 250 + 0.587 * 240 + 0.114 * 230)


@pytest.mark.parametrize("size", [8, 20, 64, 256])
def test_a_drawing_of_any_size_has_mnists_proportions(size: int):
    [image] = read_picture(encoded(shape(1, GREY)), "drawing", (1, size, size))
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    box = max(np.ptp(rows), np.ptp(columns)) + 1
    assert abs(box - 20 / 28 * size) <= 1
    centre = (image.sum(axis=1) @ np.arange(size)) / image.sum()
    assert abs(centre - size / 2) <= 1
    again = Image.fromarray(image)
    assert np.array_equal(read_picture(encoded(again), "drawing", (1, size, size)), [image])


def test_old_names_of_layouts_are_refused_by_the_new(colours: Path) -> None:
    with pytest.raises(ValueError, match="Use its new name: photo"):
        load_colours(layout="resize")
