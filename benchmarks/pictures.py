"""`python -m benchmarks.pictures`: our recipes and common methods on sets of pictures.

A row of a set is measured in processes of its own and stored at once in benchmarks/pictures.json, from
which the tables in benchmarks/pictures.md are made.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import yaml
from safetensors import safe_open

from benchmarks.bench import HERE, ROOT
from benchmarks.drawn_pictures import SETS, draw
from benchmarks.measuring import QUIET, Meter, measured, note, star
from tools.machine import machine
from tools.working_tree import copy_working_tree, working_tree_files

ROUNDS = 2  # of an epoch by each program
CONTENDER = [sys.executable, "-m", "benchmarks.picture_contenders"]


def copy_project(folder: Path, pictures: Path, recipe: str, changes: dict, **prepare) -> None:
    """Copy this project, make a folder of pictures its data set, and choose a recipe.

    `changes` has parameters of the recipe, `prepare` those of that stage.
    """
    copy_working_tree(folder, {name for name in working_tree_files() if name.startswith("data/")})
    (folder / "data").mkdir()
    (folder / "data" / pictures.name).symlink_to(pictures)
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    # The user's own layout and size would not be what the row says.
    params["prepare"] |= {"dataset": pictures.name, "layout": None, "size": None} | prepare
    params["train"]["recipe"] = recipe
    chosen = params["recipes"][recipe]
    for key, value in changes.items():
        chosen[key] = chosen[key] | value if isinstance(value, dict) else value
    if "epochs" in changes:
        chosen.pop("min_steps", None)  # would add epochs
    path.write_text(yaml.safe_dump(params))


def stage(project: Path, name: str) -> dict[str, float]:
    """Run a stage; return its wall and CPU seconds.

    Raises:
        SystemExit: it failed, and has printed the reason.
    """
    run = measured(project, "python", "-m", f"stages.{name}")
    return {"seconds": run.seconds, "cpu_seconds": run.cpu_seconds}


def recipe(
    name: str,
    changes: dict,
    max_seeds: int,
    pictures: Path,
    options: argparse.Namespace,
    **prepare: object,
) -> dict:
    """Train and test a recipe with several seeds; return means, and all accuracies."""
    if options.quick:
        changes = changes | {"epochs": 1}
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        copy_project(project, pictures, name, changes, **prepare)
        stage(project, "prepare")
        seeds = 1 if options.quick else min(max_seeds, options.seeds)
        runs = [trained(project, seed) for seed in range(seeds)]
    means = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
    return means | {"accuracies": [run["accuracy"] for run in runs]}


def better_layout(name: str, epochs: int, pictures: Path, options: argparse.Namespace) -> dict:
    """Train and test a recipe with each layout; return what the more accurate one measured."""
    runs = []
    for layout in ("drawing", "photo"):
        with tempfile.TemporaryDirectory() as folder:
            project = Path(folder) / "project"
            copy_project(
                project, pictures, name, {"epochs": 1 if options.quick else epochs}, layout=layout
            )
            try:
                stage(project, "prepare")
            except SystemExit:
                if layout != "drawing":
                    raise
                print(f"note: {name}: only photo, since prepare refuses drawing", file=sys.stderr)
                continue
            runs.append(trained(project, 0) | {"layout": layout})
    return max(runs, key=lambda run: run["accuracy"])


def trained(project: Path, seed: int) -> dict[str, float]:
    """Train with a seed and test; return the seconds of the training and the test accuracy."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"]["seed"] = seed
    path.write_text(yaml.safe_dump(params))
    run = stage(project, "train")
    stage(project, "evaluate")
    metrics = json.loads((project / "metrics/evaluate.json").read_text())
    return run | {"accuracy": metrics["accuracy"]}


def contender(name: str, pictures: Path, options: argparse.Namespace, **arguments: object) -> dict:
    """Run a contender (see picture_contenders.py) and return what it measured."""
    if options.quick:
        arguments |= {"svc": {"limit": 100}, "cnn": {"seconds": 1}}[name]
    command = [*CONTENDER, name, str(pictures), json.dumps(arguments)]
    return json.loads(measured(ROOT, *command).output)


def epoch(pictures: Path, options: argparse.Namespace) -> dict:
    """Time an epoch of the recipe `photo` by the train stage and by PyTorch's usual loop, in turn.

    Each process trains for two epochs, of which the first is not counted, on all training pictures.
    """
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        copy_project(project, pictures, "photo", {"epochs": 2}, layout="photo", validation_size=0)
        prepared = stage(project, "prepare")
        files = [project / f"data/prepared/{split}.safetensors" for split in ("train", "test")]
        shapes = [safe_open(file, "np").get_slice("images").get_shape() for file in files]
        of_loop = {"size": shapes[0][-1], "epochs": 2}
        commands = {
            "photo": (project, [sys.executable, "-m", "stages.train"]),
            "loop": (ROOT, [*CONTENDER, "loop", str(pictures), json.dumps(of_loop)]),
        }
        runs: dict[str, list] = {name: [] for name in commands}
        for _ in range(1 if options.quick else ROUNDS):
            for name, (place, command) in commands.items():
                runs[name].append(last_epoch(place, command))
    return {
        "size": shapes[0][-1],
        "prepared_per_second": sum(shape[0] for shape in shapes) / prepared["seconds"],
        **{
            name: {key: statistics.mean(run[key] for run in found) for key in found[0]}
            for name, found in runs.items()
        },
    }


def last_epoch(folder: Path, command: list[str]) -> dict[str, float]:
    """Run a training; return the wall and CPU seconds between its last two lines "Epoch …".

    Raises:
        SystemExit: it failed, and has printed the reason.
    """
    marks = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        for line in process.stdout:
            if line.startswith("Epoch "):
                marks.append((time.perf_counter(), sum(watched.cpu_times()[:4])))  # and of workers
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} in {folder} ended with {process.returncode}")
    (wall, cpu), (wall_end, cpu_end) = marks[-2:]
    return {"seconds": wall_end - wall, "cpu_seconds": cpu_end - cpu}


plain = partial(contender, "cnn")
WIDE = {
    "network": {"channels": [64, 128, 256]},
    "optimizer": {"learning_rate": 0.075},
    "epochs": 20,
}
# The title of each row, and what measures it of a folder of pictures, with the command's options.
ROWS: dict[str, tuple[str, Callable[[Path, argparse.Namespace], dict]]] = {
    "photo": ("`photo`; only data set and recipe are set", partial(recipe, "photo", {}, 3)),
    "photo-wide": (
        "the same, wider and for longer, on all training pictures (docs/cifar10.md)",
        partial(recipe, "photo", WIDE, 1, validation_size=0),
    ),
    "convolutional": (
        "`convolutional`, the better layout, 8 epochs",
        partial(better_layout, "convolutional", 8),
    ),
    "convolutional-40": ("the same, 40 epochs", partial(better_layout, "convolutional", 40)),
    "svc": (
        "scikit-learn's SVC on raw 32 x 32 RGB, at most 5,000 training pictures",
        partial(contender, "svc", limit=5000),
    ),
    "cnn-28-grey": (
        "a plain three-block CNN, 28 x 28 grey, 60 s of CPU",
        partial(plain, size=28, mode="L", mirror=False, seconds=60),
    ),
    "cnn-28": (
        "the same, 28 x 28 RGB, mirrored at random, 60 s of CPU",
        partial(plain, size=28, mode="RGB", mirror=True, seconds=60),
    ),
    "cnn-64": (
        "the same, 64 x 64 RGB, mirrored at random, 200 s of CPU",
        partial(plain, size=64, mode="RGB", mirror=True, seconds=200),
    ),
    "epoch": ("an epoch of `photo`", epoch),
}
OF_FOLDERS = ("photo-wide", "epoch")  # rows that take long, and are not measured of the drawn sets


def observed(row: str, pictures: Path, options: argparse.Namespace) -> dict:
    """Measure a row, the date, and the share of the cores that other processes used meanwhile."""
    meter = Meter()
    run = ROWS[row][1](pictures, options)
    *_, others = meter.read()
    note(others, row)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return run | {"date": today, "others": others}


def table(results: dict) -> str:
    """Return the Markdown tables of the results."""
    sets = results["sets"]
    counts = (f"`{name}`: {one['train']:,}, {one['test']:,}" for name, one in sets.items())
    lines = [
        f"| training and test pictures | {' | '.join(counts)} |",
        "|---|" + "--:|" * len(sets),
    ]
    for row, (title, _) in ROWS.items():
        runs = [one["rows"].get(row) for one in sets.values()]
        if row != "epoch" and any(runs):
            lines.append(f"| {title} | {' | '.join(map(cell, runs))} |")
    timed = {name: one["rows"]["epoch"] for name, one in sets.items() if "epoch" in one["rows"]}
    if timed:
        lines += [
            "",
            "| an epoch of `photo`, pictures | `photo` | usual loop | ratio | `prepare`, a second |",
            "|---|--:|--:|--:|--:|",
        ]
    for name, run in timed.items():
        ours, usual = run["photo"], run["loop"]
        ratios = [f"{usual[key] / ours[key]:.2f}" for key in ("seconds", "cpu_seconds")]
        title = f"`{name}`: {sets[name]['train']:,} of {run['size']} x {run['size']}{star(run)}"
        per_second = f"{run['prepared_per_second']:,.0f}"
        cells = (title, spent(ours, 1), spent(usual, 1), "; ".join(ratios), per_second)
        lines.append(f"| {' | '.join(cells)} |")
    about = results["machine"]
    runs = [run for one in sets.values() for run in one["rows"].values()]
    lines += [
        "",
        "Test accuracy (± standard deviation of several seeds); wall seconds; CPU seconds of a "
        "training. "
        f"{about['cores']} cores of {about['cpu']}, Python {about['python']}, "
        f"torch {about['torch']}, scikit-learn {about['scikit-learn']}, "
        f"{max(run['date'] for run in runs)}.",
    ]
    if any(map(star, runs)):
        lines[-1] += f" \\* Other processes used more than {QUIET:.0%} of the cores."
    return "\n".join(lines) + "\n"


def cell(run: dict | None) -> str:
    """Return the cell of an accuracy, or of a row that was not measured."""
    if not run:
        return ""
    layout = f" ({run['layout']})" if run.get("layout") else ""
    several = len(accuracies := run.get("accuracies", [])) > 1
    deviation = f" ± {statistics.stdev(accuracies) * 100:.1f}" if several else ""
    return f"{run['accuracy']:.1%}{deviation}{layout}; {spent(run)}{star(run)}"


def spent(run: dict, digits: int = 0) -> str:
    return f"{run['seconds']:.{digits}f} s; {run['cpu_seconds']:.{digits}f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "sets",
        nargs="*",
        default=[*SETS],
        help=f"{', '.join(SETS)} (drawn), or a folder with train/CLASS and test/CLASS",
    )
    parser.add_argument(
        "--rows",
        help=f"some of {','.join(ROWS)}; default: all ({' and '.join(sorted(OF_FOLDERS))}: of folders)",
    )
    parser.add_argument("--missing", action="store_true", help="only rows that are not yet stored")
    parser.add_argument(
        "--seeds", type=int, default=3, choices=(1, 2, 3), help="of `photo`; default: 3"
    )
    parser.add_argument("--quick", action="store_true", help="tiny budgets, as a test")
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    rows = arguments.rows.split(",") if arguments.rows else []
    if unknown := set(rows) - ROWS.keys():
        parser.error(f"--rows: {', '.join(sorted(unknown))}: choose from {','.join(ROWS)}")
    folders = {
        Path(name).name: None if name in SETS else Path(name).absolute() for name in arguments.sets
    }
    for folder in folders.values():
        for split in ("train", "test"):
            if folder and not any(folder.glob(f"{split}/*/*")):
                sys.exit(
                    f"error: {folder}: no pictures in {split}/CLASS/; move them into train/CLASS/ and "
                    "test/CLASS/, since all rows are tested on the same pictures"
                )
    path = arguments.output / "pictures.json"
    results = {"machine": machine(), "quick": arguments.quick, "sets": {}}
    if path.exists():
        stored = json.loads(path.read_text())
        if stored | {"sets": {}} != results:
            sys.exit(
                f"error: {path}: of another machine, other packages or --quick; delete it, or choose "
                "another --output"
            )
        results = stored
    with tempfile.TemporaryDirectory() as temporary:
        # A checkpoint in the user's cache folder would shorten a training.
        os.environ["XDG_CACHE_HOME"] = f"{temporary}/cache"
        for name, folder in folders.items():
            pictures = folder or Path(temporary) / name
            if not folder:
                draw(name, pictures, *((30, 10) if arguments.quick else ()))
            counts = {split: len([*pictures.glob(f"{split}/*/*")]) for split in ("train", "test")}
            one = results["sets"].get(name, {})
            if not counts.items() <= one.items():  # other pictures than those of the stored rows
                one = results["sets"][name] = {**counts, "rows": {}}
            for row in rows or [row for row in ROWS if folder or row not in OF_FOLDERS]:
                if arguments.missing and row in one["rows"]:
                    continue
                print(f"… {name}: {row}", file=sys.stderr)
                one["rows"][row] = observed(row, pictures, arguments)
                path.write_text(json.dumps(results, indent=1) + "\n")
                path.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
