"""A sheet's captions: in any script, and within their room."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from stages.drawing.sheet import draw_sheet
from tests.samples import read_sheet

pytest_plugins = "tests.browser"

PICTURE = Image.new("L", (28, 28), 255)


@pytest.mark.parametrize("name", ["Äpfel", "સફરજન", "яблоки", "苹果", "تفاح", '<b> & "c"', "🍎"])
def test_a_caption_is_text_in_any_script(name: str):
    """Pillow drew a box for each letter that its font lacks."""
    assert read_sheet(draw_sheet([PICTURE], [(name, "")], 1))[1] == [name]


def test_what_xml_cannot_hold_is_escaped():
    assert read_sheet(draw_sheet([PICTURE], [("a\x00\x1b\udcff",)], 1))[1] == [r"a\x00\x1b\udcff"]


@pytest.mark.parametrize("name", ["m" * 99, "સફરજન" * 20, "تفاح" * 20])
def test_a_long_caption_stays_in_its_room(browser: Browser, tmp_path: Path, name: str):
    path = tmp_path / "sheet.svg"
    path.write_bytes(draw_sheet([PICTURE] * 2, [(name,), ("",)], 2))
    page = browser.new_page(viewport={"width": 2 * 92, "height": 115})
    page.goto(path.as_uri())
    captions = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))[92:]
    page.close()
    assert captions[:, :88].min() < 128
    assert captions[:, 88:].min() == 255
