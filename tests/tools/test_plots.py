"""The page of `make plots` in a browser without a network, its PNG files and its messages."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.project import ROOT, Project

pytest_plugins = "tests.browser"

CHARTS = {  # the title of each file, in their order
    file: plot["title"]
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    for plots in stage["plots"]
    for file, plot in plots.items()
}
# At least so many lines, points, bars and cells: two lines for each of two metrics; a cell and a point
# for each digit; one line beside the diagonal, two below it, and points; a pair of digits; four files.
MARKS = {
    "metrics/epochs.csv": 4,
    "metrics/predictions.csv": 10,
    "metrics/per_class.csv": 10,
    "metrics/calibration.csv": 4,
    "metrics/confusions.csv": 1,
    "metrics/export.json": 4,
}
# The visible texts of each SVG, with their places in the window and in the SVG's own scale.
TEXTS = """all => all.map(svg => {
  const frame = svg.getBoundingClientRect();
  const scale = frame.width / svg.viewBox.baseVal.width;
  const texts = [...svg.querySelectorAll("text")].filter(
    text => text.textContent && text.getAttribute("opacity") !== "0");
  return {frame: frame.toJSON(), texts: texts.map(text => ({
    text: text.textContent,
    size: scale * parseFloat(getComputedStyle(text).fontSize),
    ...text.getBoundingClientRect().toJSON()}))};
})"""
# How many data marks each SVG shows: lines, points, bars and cells of a visible size.
SHAPES = """all => all.map(svg => [...svg.querySelectorAll(".role-mark path")].filter(path => {
  const {width, height} = path.getBoundingClientRect();
  return width + height > 2;
}).length)"""

Open = Callable[[Path, int], Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open a page without a network, in a window of a given width. It may request nothing else."""
    context = browser.new_context(offline=True)
    requests = []
    context.on("request", lambda request: requests.append(request.url))

    def open_one(path: Path, width: int) -> Page:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(path.as_uri())
        others = [url for url in requests if not url.startswith("data:") and url != path.as_uri()]
        assert others == []
        assert page.locator("script").count() == 0
        return page

    yield open_one
    context.close()


@pytest.fixture(scope="module")
def page_of_one(on_digits: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(on_digits[0], tmp_path_factory.mktemp("one"))


def make_page(project: Project, folder: Path, *arguments: str) -> Path:
    path = folder / "index.html"
    printed = project.run("python", "-m", "tools.plots", *arguments, "--out", str(folder))
    assert printed == f"{path.as_uri()}\n"
    return path


def assert_readable(page: Page, smallest: float) -> None:
    """Assert that no text is cut off, overlapped or too small, and that nothing scrolls sideways."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for chart in page.locator("svg").evaluate_all(TEXTS):
        frame, texts = chart["frame"], chart["texts"]
        assert texts
        for number, one in enumerate(texts):
            assert one["size"] >= smallest, one
            assert frame["left"] - 1 <= one["left"] < one["right"] <= frame["right"] + 1, one
            assert frame["top"] - 1 <= one["top"] < one["bottom"] <= frame["bottom"] + 1, one
            assert not any(overlap(one, other) for other in texts[:number]), one


def overlap(one: dict, other: dict) -> bool:
    """Whether two texts overlap visibly: their boxes are a little higher than the letters."""
    return (
        min(one["right"], other["right"]) - max(one["left"], other["left"]) > -2
        and min(one["bottom"], other["bottom"]) - max(one["top"], other["top"]) > 3
    )


def test_the_page_has_each_chart_once_with_its_title(page_of_one: Path, open_page: Open):
    page = open_page(page_of_one, 1280)
    assert page.locator("h2").all_text_contents() == list(CHARTS.values())
    for number, (file, heading) in enumerate(CHARTS.items()):
        section = page.locator("section").nth(number)
        assert section.locator("h2").all_text_contents() == [heading]
        kinds = [section.locator(kind).count() for kind in ("svg", "img")]
        assert kinds == ([0, 1] if file.endswith(".svg") else [1, 0])
    drawn = [file for file in CHARTS if not file.endswith(".svg")]
    shapes = dict(zip(drawn, page.locator("svg").evaluate_all(SHAPES), strict=True))
    assert all(shapes[file] >= least for file, least in MARKS.items()), shapes
    for image in page.locator("img").all():
        assert image.evaluate("image => image.complete && image.naturalWidth > 100")
        # The captions are 13 pixels high.
        assert image.evaluate("image => 13 * image.width / image.naturalWidth") >= 10
    # Not the whole page: the letters of an image's base64 are random.
    assert not any("NaN" in svg.inner_html() for svg in page.locator("svg").all())
    identifiers = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize(("width", "smallest"), [(1280, 11), (375, 10)])
def test_the_page_is_readable(page_of_one: Path, open_page: Open, width: int, smallest: float):
    assert_readable(open_page(page_of_one, width), smallest)


def test_two_revisions_are_distinguished(committed: Project, tmp_path: Path, open_page: Open):
    name = "a-branch-with-a-rather-long-name"
    committed.run("git", "branch", name)
    epochs = committed.folder / "metrics/epochs.csv"
    epochs.write_text("".join(epochs.read_text().splitlines(keepends=True)[:-1]))
    path = make_page(committed, tmp_path, name)
    for width, smallest in ((1280, 10), (375, 9)):
        page = open_page(path, width)
        assert page.locator("h2").all_text_contents() == list(CHARTS.values())
        pictures = sum(file.endswith(".svg") for file in CHARTS)
        assert page.locator("figcaption").all_text_contents() == ["workspace", name] * pictures
        for chart in page.locator("svg").all():
            texts = chart.locator("text").all_text_contents()
            assert texts.count("workspace") == texts.count(name) == 1
        assert_readable(page, smallest)


def test_the_head_describes_each_revision(committed: Project, tmp_path: Path, open_page: Open):
    commit = committed.run("git", "rev-parse", "--short", "HEAD").strip()
    committed.edit("params.yaml", "recipe: tutorial", "recipe: fast")
    page = open_page(make_page(committed, tmp_path, "main"), 1280)
    rows = [
        [cell.inner_text() for cell in row.locator("td").all()]
        for row in page.locator("tbody tr").all()
    ]
    metrics = json.loads(committed.run("git", "show", "main:metrics/evaluate.json"))
    assert [row[:3] for row in rows] == [
        [name, "digits", "tutorial"] for name in ("workspace", "main")
    ]
    assert rows[1][3].startswith(f"{metrics['accuracy']:.2%} (")
    assert [row[4] for row in rows] == [f"{commit} with changes", commit]


def test_classes_with_long_names_that_are_never_predicted(
    committed: Project, tmp_path: Path, open_page: Open
):
    names = [f"a class with a name, {number}" for number in range(25)]
    rows = [f'"{actual}","{names[0]}"' for actual in names]
    path = committed.folder / "metrics/predictions.csv"
    path.write_text("\n".join(["actual,predicted", *rows, ""]))
    path = make_page(committed, tmp_path)
    for width in (1280, 375):
        page = open_page(path, width)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        section = page.locator("section").nth(list(CHARTS).index("metrics/predictions.csv"))
        texts = [
            text for text in section.locator("svg text").all_text_contents() if "…" not in text
        ]
        assert all(texts.count(name) == 2 for name in names)
        sizes = section.locator("svg").evaluate_all(TEXTS)[0]["texts"]
        assert min(text["size"] for text in sizes) >= 11


def test_many_epochs(committed: Project, tmp_path: Path, open_page: Open):
    path = committed.folder / "metrics/epochs.csv"
    header, row, *_ = path.read_text().splitlines()
    rows = [",".join([str(epoch), *row.split(",")[1:]]) for epoch in range(1, 1001)]
    path.write_text("\n".join([header, *rows, ""]))
    assert_readable(open_page(make_page(committed, tmp_path), 375), 10)


def test_the_files_of_the_20_most_confident_mistakes_are_named(
    committed: Project, tmp_path: Path, open_page: Open
):
    folder = f"data/letters/test/{'a long name ' * 5}"
    rows = [f"{folder}/{number:04}.jpg,4,9,{1 - number / 100}" for number in range(30)]
    path = committed.folder / "metrics/mistakes.csv"
    path.write_text("\n".join(["picture,actual,predicted,probability", *rows, ""]))
    page = open_page(make_page(committed, tmp_path), 375)
    section = page.locator("section").nth(list(CHARTS).index("metrics/mistakes.csv"))
    texts = section.locator("svg text").all_text_contents()
    files = [text for text in texts if text.endswith(".jpg")]
    assert [text[-8:] for text in files] == [f"{number:04}.jpg" for number in range(20)]
    assert all(text.startswith("…") for text in files)
    assert texts.count("predicted 9, is 4, 99.0%") == 1
    assert_readable(page, 10)


def test_dark_mode(page_of_one: Path, open_page: Open):
    page = open_page(page_of_one, 1280)
    light, dark = {}, {}
    for scheme, colours in (("light", light), ("dark", dark)):
        page.emulate_media(color_scheme=scheme)
        colours |= {
            place: page.locator(place).first.evaluate(
                "one => getComputedStyle(one)[one.matches('svg *') ? 'fill' : 'color']"
            )
            for place in ("h1", "svg .role-axis text", "svg .role-legend text")
        }
    assert set(light.values()) == {"rgb(0, 0, 0)"}
    assert set(dark.values()) == {"rgb(255, 255, 255)"}


def test_learning_curves_without_a_validation_set(
    committed: Project, tmp_path: Path, open_page: Open
):
    path = committed.folder / "metrics/epochs.csv"
    header, *rows = path.read_text().splitlines()
    rows = [",".join([*row.split(",")[:3], "", ""]) for row in rows]
    path.write_text("\n".join([header, *rows, ""]))
    page = open_page(make_page(committed, tmp_path), 375)
    texts = page.locator("svg").first.locator("text").all_text_contents()
    assert "train" in texts and "validation" not in texts
    assert_readable(page, 10)


def test_pictures(on_digits: tuple[Project, str], tmp_path: Path):
    make_page(on_digits[0], tmp_path, "--png", str(tmp_path / "pictures"))
    pictures = {path.stem: Image.open(path) for path in (tmp_path / "pictures").iterdir()}
    assert pictures.keys() == {Path(file).stem for file in CHARTS}
    for name, picture in pictures.items():
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(2**24)) > 10, name


def test_a_chart_whose_file_is_missing_is_left_out(committed: Project, tmp_path: Path):
    (committed.folder / "metrics/export.json").unlink()
    printed = committed.run("python", "-m", "tools.plots", "--out", str(tmp_path))
    page = tmp_path / "index.html"
    assert printed == f"warning: no metrics/export.json of workspace\n{page.as_uri()}\n"
    assert page.read_text().count("<h2>") == len(CHARTS) - 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python -m tools.plots nonsense", "unknown Git revision 'nonsense'"),
        (
            "rm -rf .git; git init --quiet; python -m tools.plots HEAD",
            "unknown Git revision 'HEAD'",
        ),
        ("python -m tools.plots --out dvc.yaml", "dvc.yaml"),
        ("rm -r metrics; python -m tools.plots", "there is nothing to plot yet: run `dvc repro`"),
        ("echo '{' > metrics/evaluate.json; python -m tools.plots", "metrics/evaluate.json"),
        ("echo 'stages: [' > dvc.yaml; python -m tools.plots", "dvc.yaml"),
        ("rm .dvc/plots/bars.json; python -m tools.plots", "Template 'bars' not found."),
        ("echo '{' > .dvc/plots/bars.json; python -m tools.plots", ""),
    ],
)
def test_errors_are_one_line(committed: Project, command: str, message: str):
    printed = committed.run("sh", "-c", command, fails=True)
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert message in printed
