"""A model of other classes than digits: their names, and pictures that are not drawn."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, expect
from torch import nn

from predict.model import Model
from stages.common.errors import UserError
from stages.exporting.onnx_files import write_onnx
from stages.exporting.torch_files import Classifier
from stages.network.networks import build
from tests.predict.drawings import draw
from tests.predict.test_demo import page_of, png, serving
from tests.project import ROOT
from tests.samples import DATASET, NETWORK

pytest_plugins = "tests.browser"

NAMES = [f"Größe {number}" for number in range(11)] + ['"<b>bold</b> & so on"']
PICTURE = png(draw(3).convert("RGB"))


def write_model(path: Path, dataset: object, classes: int) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(build(NETWORK, classes), nn.Softmax(dim=1)).eval().requires_grad_(False)
    provenance = {"training": {"dataset": dataset}}
    path.write_bytes(write_onnx(Classifier(network, provenance, torch.zeros(1, 1, 28, 28))))
    return path


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, untrained, of twelve classes and whole pictures."""
    about = DATASET | {"title": "Sizes & more", "classes": NAMES, "layout": "resize"}
    return write_model(tmp_path_factory.mktemp("sizes") / "model.onnx", about, len(NAMES))


def test_the_model_names_its_classes(sizes: Path):
    model = Model(sizes)
    assert (model.classes, model.layout, model.title) == (NAMES, "resize", "Sizes & more")


@pytest.mark.parametrize(
    "dataset", [{}, [], None, DATASET | {"classes": NAMES[:-1]}, {"classes": NAMES}]
)
def test_a_model_without_names_for_its_classes_is_one_line(tmp_path: Path, dataset: object):
    path = write_model(tmp_path / "model.onnx", dataset, len(NAMES))
    with pytest.raises(UserError, match=rf"^{path}: not a model of this pipeline \(.*`dvc repro`$"):
        Model(path)


def test_predict_says_the_names(sizes: Path, tmp_path: Path):
    (tmp_path / "three.png").write_bytes(PICTURE)
    command = [sys.executable, "-m", "predict", "--model", sizes, tmp_path / "three.png"]

    def output(*more: str) -> str:
        return subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    answer = json.loads(output("--json"))
    assert list(answer["probabilities"]) == NAMES
    assert answer["probabilities"][answer["class"]] == answer["probability"]
    assert f"three.png  {answer['class']}" in output("--show", str(tmp_path / "sheet.png"))


@pytest.fixture(scope="module")
def url(sizes: Path) -> Iterator[str]:
    with serving("--model", sizes) as url:
        yield url


def test_a_picture_is_dropped_on_the_page_and_classes_have_their_names(browser: Browser, url: str):
    with page_of(browser, url, viewport={"width": 1280, "height": 800}) as page:
        expect(page.locator("header")).to_contain_text("Sizes & more")
        expect(page.locator("#result")).to_have_text("Drop or upload a picture.")
        page.locator("#canvas").click()  # on which nothing can be drawn
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
        expect(page.locator("#result")).to_contain_text("This is ")
        rows = page.locator("tbody th").all_text_contents()
        assert len(rows) == 10
        assert set(rows) <= set(NAMES)
        best = page.locator("tr.best th").text_content()
        assert best == rows[0] == page.locator("#class").text_content()
        shares = [
            float(text[:-2]) for text in page.locator("tbody td:last-child").all_text_contents()
        ]
        assert shares == sorted(shares, reverse=True)
