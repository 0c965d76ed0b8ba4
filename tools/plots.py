"""Draw DVC's plots on one page that needs neither a network nor JavaScript.

python -m tools.plots                  # the workspace
python -m tools.plots main             # the workspace beside main
python -m tools.plots --png pictures   # also each chart as a PNG file
"""

import argparse
import base64
import json
import mimetypes
import re
import subprocess
import sys
import webbrowser
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import vl_convert
import yaml

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
VEGA_LITE = "5.8"  # of the versions in vl_convert, the nearest to that of `dvc plots show`
FONT = {"labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal"}


Plots = dict[str, list[dict[str, Any]]]  # by file: a Vega-Lite chart, or an image for each revision


def read_plots(revisions: list[str], folder: str) -> Plots:
    """Read DVC's plots of the revisions, in the order of dvc.yaml; their images go into the folder.

    Raises:
        ValueError: DVC cannot read a revision or a template, or there is nothing to plot.
    """
    several = ["diff", *revisions] if len(revisions) > 1 else ["show"]
    command = ["dvc", "plots", *several, "--json", "--out", folder]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ValueError(result.stderr.removeprefix("ERROR: ").partition("\n\n")[0])
    output = json.loads(result.stdout)
    errors = output.get("errors", [])
    for error in errors:
        if "name" not in error:  # not of one chart: dvc.yaml cannot be read
            raise ValueError(error["msg"])
    plots = {file: drawn for file, drawn in output.get("data", {}).items() if drawn}
    if not plots:
        raise ValueError("there is nothing to plot yet: run `dvc repro`")
    for error in errors:
        print(f"warning: no {error['name']} of {error['rev']}", file=sys.stderr)
    return plots


def read_titles() -> dict[str, str]:
    """Return the title of each file that dvc.yaml plots; DVC's JSON has none for images."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"].values()
    plots = [plot for stage in stages for plot in stage.get("plots", []) if isinstance(plot, dict)]
    options = {file: options for plot in plots for file, options in plot.items()}
    return {file: each.get("title", file) for file, each in options.items()}


def style(several: bool) -> dict[str, Any]:
    """Return Vega-Lite's settings for charts that are readable on a phone.

    A chart of one revision has no legend for it.
    """
    return {
        "font": "Liberation Sans, Arial, Helvetica, sans-serif",  # all of the same widths
        "axis": FONT,
        "text": {"fontSize": 12},
        "header": {"labelFontSize": 13},
        "legend": FONT
        | {
            "columns": 1,
            "disable": not several,
            "labelLimit": 300,
            "layout": {"bottom": {"anchor": "start", "direction": "vertical"}},
            "orient": "bottom",
        },
    }


def to_page(plots: Plots, revisions: list[str]) -> str:
    """Return the plots as one HTML page."""
    several, titles = len(revisions) > 1, read_titles()
    sections = []
    for file, drawn in plots.items():
        title = escape(titles.get(file, file))
        body = ""
        for plot in drawn:
            if plot["type"] == "vega":
                untitled = plot["content"] | {"title": None}
                body += vl_convert.vegalite_to_svg(untitled, VEGA_LITE, style(several))
            else:
                image = base64.b64encode(Path(plot["url"]).read_bytes()).decode()
                source = f"data:{mimetypes.guess_type(file)[0]};base64,{image}"
                caption = escape(plot["revisions"][0]) if several else ""
                body += f'<figure><img alt="{title}" src="{source}">'
                body += f"<figcaption>{caption}</figcaption></figure>\n"
        sections.append(f"<section>\n<h2>{title}</h2>\n{body}\n</section>")
    heading = escape("Plots: " + ", ".join(revisions))
    return PAGE.format(title=heading, charts="\n".join(sections))


def write_images(plots: Plots, revisions: list[str], folder: Path) -> None:
    """Write each plot as a PNG file that is named like the file it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    several = len(revisions) > 1
    for file, drawn in plots.items():
        for plot in drawn:
            if plot["type"] == "vega":
                chart, config = plot["content"], style(several)
                name = Path(file).stem
                image = vl_convert.vegalite_to_png(chart, VEGA_LITE, scale=2, config=config)
            else:
                revision = "-" + re.sub(r"[^\w.]", "-", plot["revisions"][0])
                name = Path(file).stem + (revision if several else "")
                image = Path(plot["url"]).read_bytes()
            (folder / f"{name}.png").write_bytes(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revisions", nargs="*", metavar="REV", help="compare the workspace with it")
    parser.add_argument("--out", type=Path, default=Path("dvc_plots"), help="folder of the page")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="also write PNG files there")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    options = parser.parse_args()
    revisions = list(dict.fromkeys(["workspace", *options.revisions]))
    page = options.out.absolute() / "index.html"
    try:
        with TemporaryDirectory() as folder:
            plots = read_plots(revisions, folder)
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(to_page(plots, revisions), encoding="utf-8")
            if options.png:
                write_images(plots, revisions, options.png)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {' '.join(str(error).split())}\n")
    print(page.as_uri())
    if options.open:
        webbrowser.open(page.as_uri())


if __name__ == "__main__":
    main()
