"""Draw DVC's plots on one page that needs neither a network nor JavaScript.

python -m tools.plots                  # the workspace
python -m tools.plots main             # the workspace beside main
python -m tools.plots --png pictures   # also each chart as a PNG file
python -m tools.plots --watch          # draws again when a file has changed, until Ctrl-C
"""

import argparse
import base64
import json
import mimetypes
import re
import subprocess
import sys
import time
import webbrowser
from contextlib import suppress
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dvc.api
import vl_convert
import yaml
from dvc.exceptions import DvcException

from tools.compare import WORKSPACE, interval
from tools.output import one_line, run_tool

METRICS = "metrics/evaluate.json"

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 0 auto; padding: 1rem; max-width: 86rem; font-family: sans-serif }}
main {{ columns: 24rem; column-gap: 2rem }}
section {{ break-inside: avoid; margin-bottom: 2rem }}
section, header {{ overflow-x: auto }}
h1, h2, figcaption {{ overflow-wrap: anywhere }}
h1 {{ font-size: 1.5rem }}
h2 {{ font-size: 1.2rem; margin: 0 0 0.5rem }}
header {{ margin-bottom: 2rem }}
th, td {{ padding: 0.2rem 1.5rem 0.2rem 0; text-align: left; font-weight: normal; white-space: nowrap }}
thead {{ opacity: 0.7 }}
@media (max-width: 50rem) {{
  thead {{ display: none }} tr {{ display: block; clear: both }} td {{ float: left }}
}}
figure {{ margin: 0 0 1rem }}
svg, img {{ display: block; max-width: 100%; height: auto }}
.wide {{ column-span: all }}
.wide svg {{ max-width: none }}
</style>
</head>
<body>
<h1>{title}</h1>
<header>
{head}
</header>
<main>
{charts}
</main>
</body>
</html>
"""
REFRESH = '<meta http-equiv="refresh" content="2">'  # the browser loads the page again, in seconds
VEGA_LITE = "5.8"  # of the versions in vl_convert, the nearest to that of `dvc plots show`
WIDE = 640  # pixels: a wider chart, of many classes, takes the page's whole width and scrolls


Plots = dict[str, list[dict[str, Any]]]  # by file: a Vega-Lite chart, or an image for each revision


def read_plots(revisions: list[str], folder: str) -> Plots:
    """Read DVC's plots of the revisions, in the order of dvc.yaml; their images go into the folder.

    Raises:
        ValueError: DVC cannot read a revision or a template, or there is nothing to plot.
    """
    # Without a commit, DVC takes any revision for an empty one.
    if len(revisions) > 1 and not git("rev-parse", "--quiet", "--verify", "HEAD"):
        raise ValueError(f"unknown Git revision '{revisions[1]}': there is no commit yet")
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


def style(several: bool, text: str = "black") -> dict[str, Any]:
    """Return Vega-Lite's settings for charts that are readable on a phone.

    `text` is the colour of texts. A chart of one revision has no legend for it.
    """
    font = {"labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal"}
    font |= {"labelColor": text, "titleColor": text}
    return {
        "font": "Liberation Sans, Arial, Helvetica, sans-serif",  # all of the same widths
        "axis": font | {"gridColor": "#8884", "domainColor": "#888", "tickColor": "#888"},
        "view": {"stroke": "#8884"},
        "text": {"fontSize": 12, "color": text},
        "header": {"labelFontSize": 13, "labelColor": text},
        "legend": font
        | {
            "columns": 1,
            "disable": not several,
            "labelLimit": 300,
            "layout": {"bottom": {"anchor": "start", "direction": "vertical"}},
            "orient": "bottom",
        },
    }


def describe(revision: str) -> dict[str, str]:
    """Return what the page's head says of a revision, by the names of its columns."""
    workspace = revision == WORKSPACE
    commit = git("log", "-1", "--format=%h", "HEAD" if workspace else revision)
    changed = workspace and git("status", "--porcelain")
    rev = None if workspace else revision
    try:
        # Not params.yaml: it may have been edited since.
        stages = yaml.safe_load(dvc.api.read("dvc.lock", rev=rev))["stages"]
        dataset, recipe = (
            stages[stage]["params"]["params.yaml"][stage][key]
            for stage, key in (("prepare", "dataset"), ("train", "recipe"))
        )
        metrics = dvc.api.metrics_show(METRICS, rev=rev)
        low, high = interval(round(metrics["accuracy"] * metrics["images"]), metrics["images"])
        accuracy = f"{metrics['accuracy']:.2%} ({low:.2%} to {high:.2%})"
    except (FileNotFoundError, KeyError):
        dataset = recipe = accuracy = "not known"
    return {
        "revision": revision,
        "data set": dataset,
        "recipe": recipe,
        "test accuracy (95 % interval)": accuracy,
        "commit": f"{commit} with changes" if changed else commit,
        "date": git("log", "-1", "--format=%cs", "HEAD" if workspace else revision),
    }


def git(*command: str) -> str:
    """Return what a Git command prints; "" where it fails, such as without a commit."""
    result = subprocess.run(["git", *command], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def to_table(rows: list[dict[str, str]]) -> str:
    """Return an HTML table with a row for each revision."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row.values()) for row in rows]
    lines = "\n".join(f"<tr>{cells}</tr>" for cells in body)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"


def to_page(plots: Plots, revisions: list[str], watch: bool) -> str:
    """Return the plots as one HTML page, which loads itself again if we `watch` the files."""
    several, titles = len(revisions) > 1, read_titles()
    sections = []
    for file, drawn in plots.items():
        title = escape(titles.get(file, file))
        body, wide = "", False
        for plot in drawn:
            if plot["type"] == "vega":
                untitled = plot["content"] | {"title": None, "background": None}
                settings = style(several, text="currentColor")
                svg = vl_convert.vegalite_to_svg(untitled, VEGA_LITE, settings)
                wide |= int(re.findall(r'<svg[^>]* width="(\d+)', svg)[0]) > WIDE
                body += svg
            else:
                image = base64.b64encode(Path(plot["url"]).read_bytes()).decode()
                source = f"data:{mimetypes.guess_type(file)[0]};base64,{image}"
                caption = escape(plot["revisions"][0]) if several else ""
                body += f'<figure><img alt="{title}" src="{source}">'
                body += f"<figcaption>{caption}</figcaption></figure>\n"
        kind = ' class="wide"' if wide else ""
        sections.append(f"<section{kind}>\n<h2>{title}</h2>\n{body}\n</section>")
    return PAGE.format(
        title=escape("Plots: " + ", ".join(revisions)),
        refresh=REFRESH if watch else "",
        head=to_table([describe(revision) for revision in revisions]),
        charts="\n".join(sections),
    )


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
                image = vl_convert.svg_to_png(Path(plot["url"]).read_text("utf-8"), scale=2)
            (folder / f"{name}.png").write_bytes(image)


def draw(revisions: list[str], page: Path, watch: bool, images: Path | None) -> None:
    """Draw the page, and the PNG files in the folder `images`; raises as `read_plots`, and OSError."""
    with TemporaryDirectory() as folder:
        plots = read_plots(revisions, folder)
        page.parent.mkdir(parents=True, exist_ok=True)
        new = page.with_suffix(".tmp")  # a browser that loads the page again finds all of it
        new.write_text(to_page(plots, revisions, watch), encoding="utf-8")
        new.replace(page)
        if images:
            write_images(plots, revisions, images)


def modified() -> dict[Path, int]:
    """Return the times at which the files in metrics/ were modified, in nanoseconds."""
    times = {}
    for path in Path("metrics").glob("[!.]*"):
        with suppress(FileNotFoundError):  # a stage has begun, and DVC removes its files
            times[path] = path.stat().st_mtime_ns
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revisions", nargs="*", metavar="REV", help="compare the workspace with it")
    parser.add_argument("--out", type=Path, default=Path("dvc_plots"), help="folder of the page")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="also write PNG files there")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--watch", action="store_true", help="draw again after each change")
    options = parser.parse_args()
    revisions = list(dict.fromkeys([WORKSPACE, *options.revisions]))
    page = options.out.absolute() / "index.html"
    opened = False
    while True:
        drawn = modified()
        try:
            draw(revisions, page, options.watch, options.png)
        except (OSError, ValueError, TypeError, yaml.YAMLError, DvcException) as error:
            line = f"error: {one_line(error)}\n"
            if not options.watch:
                parser.exit(2, line)
            sys.stderr.write(line)  # such as that there is nothing to plot yet
        else:
            if not opened:
                opened = True
                print(page.as_uri(), flush=True)
                if options.open:
                    webbrowser.open(page.as_uri())
        if not options.watch:
            return
        while modified() == drawn:
            time.sleep(1)


if __name__ == "__main__":
    run_tool(main)
