"""A model of other classes than digits, with the layout `photo`."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from predict.model import Model
from tests.predict.demo import page_of, png, serving
from tests.predict.drawings import draw
from tests.predict.models import write_model
from tests.project import ROOT

pytest_plugins = "tests.browser"

NAMES = [f"Größe {number}" for number in range(11)] + ['"<b>bold</b> & so on"']
PROBABILITIES = [(number + 1) / 78 for number in range(12)]  # the last is the most probable
DATASET = {"title": "Sizes & more", "classes": NAMES, "layout": "photo"}
PICTURE = png(draw(3).convert("RGB"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("sizes") / "model.onnx", PROBABILITIES, DATASET)


def test_the_model_has_the_names_of_its_classes(model: Path):
    loaded = Model(model)
    assert (loaded.classes, loaded.layout, loaded.title) == (NAMES, "photo", "Sizes & more")


def test_predict_prints_the_names(model: Path, tmp_path: Path):
    (tmp_path / "three.png").write_bytes(PICTURE)
    command = [sys.executable, "-m", "predict", "--model", model, tmp_path / "three.png"]

    def output(*more: str) -> str:
        return subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    prediction = json.loads(output("--json"))
    assert (prediction["class"], prediction["runner_up"]) == (NAMES[11], NAMES[10])
    assert list(prediction["probabilities"]) == NAMES
    assert f"three.png  {NAMES[11]}" in output("--show", str(tmp_path / "sheet.svg"))


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    with serving(model) as url:
        yield url


def test_the_page_classifies_a_dropped_picture(browser: Browser, url: str):
    with page_of(browser, url) as page:
        expect(page.locator("header")).to_contain_text("Sizes & more")
        expect(page.locator("#result")).to_have_text("Drop or upload a picture.")
        page.locator("#canvas").click()  # drawing is disabled
        expect(page.get_by_role("button", name="Clear")).to_be_disabled()
        page.evaluate(
            """content => {
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], "three.png", {type: "image/png"}));
                document.body.dispatchEvent(new DragEvent("drop",
                    {dataTransfer: transfer, bubbles: true, cancelable: true}));
            }""",
            base64.b64encode(PICTURE).decode(),
        )
        expect(page.locator("#result")).to_contain_text(f"Unsure. Perhaps {NAMES[11]}, with 15.4")
        assert page.locator("tbody th").all_text_contents() == NAMES[:1:-1]  # the ten most probable
        expect(page.locator("tr.best th")).to_have_text(NAMES[11])
        expect(page.locator("#class")).to_have_text(NAMES[11])
        expect(page.locator("#samples")).to_be_hidden()  # those of this project are others


@pytest.mark.parametrize("width", [320, 768, 1280])
@pytest.mark.parametrize(
    "names",
    [["arrow", "circle", "cross", "square", "triangle"], [f"class {x}" for x in "abcdefghijkl"]],
)
def test_names_stay_readable_and_the_page_fits(
    browser: Browser, tmp_path: Path, names: list[str], width: int
):
    output = [1.0] + [0.0] * (len(names) - 1)
    model = write_model(
        tmp_path / "model.onnx", output, {"title": "Names", "classes": names, "layout": "drawing"}
    )
    with (
        serving(model) as url,
        page_of(browser, url, viewport={"width": width, "height": 800}) as page,
    ):
        heights = page.locator("tbody tr").evaluate_all("all => all.map((row) => row.offsetHeight)")
        assert max(heights) < 32  # one line
        assert page.evaluate("document.documentElement.scrollWidth") == width
        height = page.evaluate("document.documentElement.scrollHeight")
        assert height == 800 if width > 320 else height < 1200


def test_long_names_are_broken_into_a_few_lines(browser: Browser, tmp_path: Path):
    names = [f"Donaudampfschifffahrtsgesellschaft {number}" for number in range(12)]
    dataset = {"title": "Long names", "classes": names, "layout": "drawing"}
    model = write_model(tmp_path / "model.onnx", PROBABILITIES, dataset)
    with serving(model) as url:
        for width in (320, 768, 1280):
            with page_of(browser, url, viewport={"width": width, "height": 800}) as page:
                page.locator("#canvas").click()
                expect(page.locator("#result")).to_contain_text("Unsure. Perhaps ")
                assert page.evaluate("document.documentElement.scrollWidth") == width
                height = page.locator("tbody tr").first.evaluate("row => row.offsetHeight")
                assert height < 120
