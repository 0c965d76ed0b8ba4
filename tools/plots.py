"""Draw DVC's plots on one page that needs neither a network nor JavaScript.

python tools/plots.py                  # the workspace
python tools/plots.py main             # the workspace beside main
python tools/plots.py --png pictures   # each chart as a picture, too
"""

import argparse
import base64
import io
import mimetypes
import re
import sys
import webbrowser
from contextlib import redirect_stderr
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import vl_convert
from dvc.exceptions import DvcException
from dvc.render.match import match_defs_renderers
from dvc.repo import Repo
from dvc_render.base import Renderer
from dvc_render.exceptions import DvcRenderError

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; padding: 1rem; max-width: 86rem; font-family: sans-serif }}
main {{ display: grid; gap: 2.5rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)) }}
h1, h2, figcaption {{ overflow-wrap: anywhere }}
h1 {{ font-size: 1.5rem }}
h2 {{ font-size: 1.2rem; margin: 0 0 0.5rem }}
figure {{ margin: 0 0 1rem }}
svg, img {{ display: block; width: 100%; max-width: 28rem; height: auto }}
</style>
</head>
<body>
<h1>{title}</h1>
<main>
{charts}
</main>
</body>
</html>
"""
VEGA_LITE = "5.8"  # of those in vl_convert the nearest to what the page of `dvc plots show` loads
LETTERS = {"labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal"}


class Chart(NamedTuple):
    """A plot of dvc.yaml: a Vega-Lite specification, or one picture of each revision in base64."""

    name: str
    title: str
    specification: dict[str, Any]
    pictures: dict[str, str]


def read_charts(revisions: list[str]) -> list[Chart]:
    """Collect what DVC plots of the revisions, in the order of dvc.yaml.

    Raises:
        ValueError: there is no such revision, or nothing to plot.
    """
    try:
        # DVC warns there of each file that it misses; what matters is said below.
        with Repo() as repo, redirect_stderr(io.StringIO()):
            data = repo.plots.show(revs=revisions)
            for content in data.values():
                if error := content["definitions"].get("error"):
                    raise error
            found = match_defs_renderers(data, templates_dir=repo.plots.templates_dir)
            charts = [_chart(one.renderer) for one in found if one.renderer.datapoints]
    except (DvcException, DvcRenderError, OSError) as error:
        raise ValueError(str(error)) from None
    if not charts:
        raise ValueError("there is nothing to plot yet: run `dvc repro`")
    for one in found:
        for revision in one.source_errors | one.definition_errors:
            print(f"warning: no {one.renderer.name} of {revision}", file=sys.stderr)
    return charts


def _chart(renderer: Renderer) -> Chart:
    title = renderer.properties["title"]
    if renderer.TYPE == "vega":
        return Chart(renderer.name, title, renderer.get_filled_template(), {})
    pictures = {one["rev"]: one["src"].partition(",")[2] for one in renderer.datapoints}
    return Chart(renderer.name, title, {}, pictures)


def style(several: bool) -> dict[str, Any]:
    """Return Vega-Lite's settings for charts that stay readable on a phone.

    Where there is one revision only, nothing has to tell its name.
    """
    return {
        "font": "Liberation Sans, Arial, Helvetica, sans-serif",  # all of the same widths
        "axis": LETTERS,
        "text": {"fontSize": 12},
        "header": {"labelFontSize": 13},
        "legend": LETTERS
        | {
            "columns": 1,
            "disable": not several,
            "labelLimit": 300,
            "layout": {"bottom": {"anchor": "start", "direction": "vertical"}},
            "orient": "bottom",
        },
    }


def to_page(charts: list[Chart], revisions: list[str]) -> str:
    """Write the charts as one HTML page."""
    several = len(revisions) > 1
    sections = []
    for chart in charts:
        if chart.specification:
            titleless = chart.specification | {"title": None}
            body = vl_convert.vegalite_to_svg(titleless, VEGA_LITE, style(several))
        else:
            kind = mimetypes.guess_type(chart.name)[0]
            body = "\n".join(
                f'<figure><img alt="{escape(chart.title)}" src="data:{kind};base64,{picture}">'
                f"<figcaption>{escape(revision) if several else ''}</figcaption></figure>"
                for revision, picture in chart.pictures.items()
            )
        sections.append(f"<section>\n<h2>{escape(chart.title)}</h2>\n{body}\n</section>")
    title = "Plots: " + ", ".join(revisions)
    return PAGE.format(title=escape(title), charts="\n".join(sections))


def write_pictures(charts: list[Chart], revisions: list[str], folder: Path) -> None:
    """Write each chart as a PNG that is named like the file it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    several = len(revisions) > 1
    for chart in charts:
        path = folder / f"{Path(chart.name).stem}.png"
        if chart.specification:
            path.write_bytes(
                vl_convert.vegalite_to_png(
                    chart.specification, VEGA_LITE, scale=2, config=style(several)
                )
            )
        for revision, picture in chart.pictures.items():
            suffix = "-" + re.sub(r"[^\w.]", "-", revision) if several else ""
            path.with_stem(path.stem + suffix).write_bytes(base64.b64decode(picture))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revisions", nargs="*", metavar="REV", help="compare the workspace with it")
    parser.add_argument("--out", type=Path, default=Path("dvc_plots"), help="folder of the page")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="write pictures there, too")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    options = parser.parse_args()
    revisions = list(dict.fromkeys(["workspace", *options.revisions]))
    page = options.out.absolute() / "index.html"
    try:
        charts = read_charts(revisions)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(to_page(charts, revisions), encoding="utf-8")
        if options.png:
            write_pictures(charts, revisions, options.png)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {' '.join(str(error).split())}\n")
    print(page.as_uri())
    if options.open:
        webbrowser.open(page.as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
