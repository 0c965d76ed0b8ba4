"""The page of `dvc plots show`, as a browser shows it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Project
from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.slow

CDN = re.compile(r"https://cdn\.jsdelivr\.net/npm/([a-z-]+)@([0-9.]+)")
# What is to be seen: DVC's names of the plots, by file or by title.
PLOTS = {
    "Loss",
    "Accuracy",
    "Calibration",
    "Confusion matrix, shares of each digit",
    "Speed",
    "metrics/predictions.csv",
    "metrics/per_class.csv",
    "metrics/calibration.csv",
    "metrics/confidence.csv",
    "metrics/confusions.csv",
    "metrics/mistakes.png",
    "metrics/export.json",
}
CURVES = {  # each alone; Loss and Accuracy lay them over each other
    f"metrics/train/plots/metrics/{split}/{metric}.tsv"
    for split in ("train", "validation")
    for metric in ("accuracy", "loss")
}


@pytest.fixture(scope="module")
def libraries(on_digits: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JavaScript that DVC's page takes from a CDN, from npm: a browser test needs no network."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    on_digits[0].run("dvc", "plots", "show", "--out", str(folder / "page"))
    wanted = sorted(set(CDN.findall((folder / "page/index.html").read_text())))
    assert [name for name, _ in wanted] == ["vega", "vega-embed", "vega-lite"]
    packages = [f"{name}@{version}" for name, version in wanted]
    command = ["npm", "install", "--silent", "--no-audit", "--legacy-peer-deps", *packages]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"npm cannot install {packages}: {result.stderr[-200:]}")
    return folder / "node_modules"


def opened(browser: Browser, page_file: Path, libraries: Path) -> tuple[Page, list[str]]:
    """Open a page of plots; return it, and what went wrong, as it goes on."""

    def from_npm(route: Route) -> None:
        name = CDN.match(route.request.url)[1]
        script = libraries / name / "build" / f"{name}.min.js"
        route.fulfill(path=script, content_type="text/javascript")

    page, problems = browser.new_page(viewport={"width": 1280, "height": 800}), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    page.route(CDN, from_npm)
    page.goto(page_file.as_uri())
    page.wait_for_load_state("networkidle")
    return page, problems


def test_every_plot_is_drawn(
    on_digits: tuple[Project, str], browser: Browser, libraries: Path, tmp_path: Path
):
    project = on_digits[0]
    project.run("dvc", "plots", "show", "--out", str(tmp_path))
    found = json.loads(project.run("dvc", "plots", "show", "--json"))["data"]
    assert set(found) == PLOTS | CURVES
    page, problems = opened(browser, tmp_path / "index.html", libraries)
    pictures = page.locator("img")
    assert pictures.count() == sum(name.endswith(".png") for name in found)
    assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 100)")
    canvases = page.locator("canvas")
    canvases.nth(len(found) - pictures.count() - 1).wait_for()
    assert canvases.count() == len(found) - pictures.count()
    colours = canvases.evaluate_all(
        """all => all.map(one => new Set(new Uint32Array(one.getContext("2d")
           .getImageData(0, 0, one.width, one.height).data.buffer)).size)"""
    )
    assert all(count > 10 for count in colours), colours  # not blank
    assert problems == []


def test_two_revisions_are_laid_over_each_other(
    committed: Project, browser: Browser, libraries: Path, tmp_path: Path
):
    committed.edit("params.yaml", "epochs: 10", "epochs: 3")
    committed.repro()
    committed.run("dvc", "plots", "diff", "HEAD", "--out", str(tmp_path))
    page, problems = opened(browser, tmp_path / "index.html", libraries)
    page.locator("canvas").first.wait_for()
    assert "workspace" in page.content()
    assert page.locator("img").count() == 2  # the mistakes of both
    assert problems == []
