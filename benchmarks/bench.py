"""`make bench`: this pipeline beside the tutorial, scikit-learn and the bare arithmetic.

Every contender runs in a process of its own, one after the other, round by round. Run it on a quiet
machine: other work slows down some contenders more than others, so it is measured too, and marked in
the table. Medians are reported, of memory maxima. benchmarks/results.json gets every number,
benchmarks/results.md the table that docs/recipes-and-results.md quotes.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from PIL import Image
from safetensors.numpy import load_file

from benchmarks.measuring import QUIET, Run, measured, note, star
from tools.machine import machine
from tools.working_tree import copy_working_tree

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent

TARGET = 0.954  # the accuracy that the tutorial states
STAGES = ("prepare", "train", "evaluate", "export")


def contender(name: str, folder: Path, **options: object) -> dict:
    """Run one contender (see contenders.py) and return what it measured."""
    command = [sys.executable, "-m", "benchmarks.contenders", name, str(folder)]
    for option, value in options.items():
        if value is True:
            command.append(f"--{option}")
        elif value is not None:
            command += [f"--{option}", str(value)]
    title = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
    print("…", title, file=sys.stderr)
    run = measured(ROOT, *command)
    if not run.output:
        return {}
    note(run.others, title)
    last = run.output.splitlines()[-1]
    return json.loads(last) | {"peak_mib": run.peak_mib, "others": run.others}


def seconds_to_target(run: dict, with_tests: bool) -> float | None:
    """Return the seconds of training until the test accuracy is TARGET; None if it never is."""
    elapsed = 0.0
    for train, test, accuracy in zip(run["train"], run["test"], run["accuracy"], strict=True):
        elapsed += train + (test if with_tests else 0)
        if accuracy is None:
            return None  # not tested after each epoch
        if accuracy >= TARGET:
            return elapsed
    return None


def summary(runs: list[dict], with_tests: bool = False) -> dict:
    """Return the medians of some runs of one contender."""
    to_target = [seconds_to_target(run, with_tests) for run in runs]
    return {
        "seconds_per_epoch": statistics.median(s for run in runs for s in run["train"]),
        "cpu_seconds_per_epoch": statistics.median(s for run in runs for s in run["cpu"]),
        "seconds_whole": statistics.median(
            sum(run["train"]) + (sum(run["test"]) if with_tests else 0) for run in runs
        ),
        "seconds_to_target": None if None in to_target else statistics.median(to_target),
        "accuracy": statistics.median(run["accuracy"][-1] or 0.0 for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "others": statistics.mean(run["others"] for run in runs),
        "runs": runs,
    }


def seeds(name: str, folder: Path, count: int, epochs: int | None) -> dict:
    """Train a recipe with several seeds; return mean and standard deviation of its accuracy."""
    runs = [contender(name, folder, seed=seed, epochs=epochs) for seed in range(count)]
    accuracies = [run["accuracy"][-1] for run in runs]
    return summary(runs) | {
        "mean": statistics.mean(accuracies),
        "standard_deviation": statistics.stdev(accuracies) if count > 1 else 0.0,
        "n": count,
    }


class Project:
    """A copy of this project, without results, as a Git and DVC repository of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        copy_working_tree(folder, without=("dvc.lock",))

    def set(self, old: str, new: str) -> None:
        path = self.folder / "params.yaml"
        text = path.read_text()
        if old not in text:
            sys.exit(
                f"error: params.yaml: no {old!r}: measure the committed one (git restore params.yaml)"
            )
        path.write_text(text.replace(old, new, 1))


def bare_pipeline(folder: Path) -> None:
    """Make four stages that do nothing, one after the other, and run them."""
    folder.mkdir()
    stages = "".join(
        f"  s{i}:\n    cmd: cp {i} {i + 1}\n    deps: ['{i}']\n    outs: ['{i + 1}']\n"
        for i in range(4)
    )
    (folder / "dvc.yaml").write_text(f"stages:\n{stages}")
    (folder / "0").write_text("start")
    for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet"), ("dvc", "repro")):
        measured(folder, *command)


def whole_pipeline(folder: Path, dataset: str, rounds: int, repeats: int) -> dict:
    """Time `dvc repro`, cold and with nothing to do, and the latter of four bare stages."""
    print("… dvc repro", file=sys.stderr)
    runs: dict[str, list[Run]] = {"cold": [], "noop": [], "bare_noop": []}
    bare_pipeline(folder / "bare")
    for i in range(rounds):
        project = Project(folder / f"cold{i}")
        project.set("dataset: mnist", f"dataset: {dataset}")
        runs["cold"].append(measured(project.folder, "dvc", "repro"))
        for _ in range(repeats):
            runs["noop"].append(measured(project.folder, "dvc", "repro"))
            runs["bare_noop"].append(measured(folder / "bare", "dvc", "repro"))
    for name, several in runs.items():
        note(statistics.mean(run.others for run in several), f"dvc repro, {name}")
    return {
        name: {
            "seconds": statistics.median(run.seconds for run in several),
            "cpu_seconds": statistics.median(run.cpu_seconds for run in several),
            "others": statistics.mean(run.others for run in several),
            "runs": [run.seconds for run in several],
        }
        for name, several in runs.items()
    }


def memory(folder: Path, dataset: str, stages: tuple[str, ...], times: int) -> dict:
    """Return the stages' peak memory, in MiB, on the prepared set and on one `times` as large."""
    print("… memory", file=sys.stderr)
    project = Project(folder / "memory")
    project.set("dataset: mnist", f"dataset: {dataset}")
    project.set("epochs: 10", "epochs: 1")
    peaks = {}
    for stage in stages:
        run = measured(project.folder, "python", "-m", f"stages.{stage}")
        peaks[stage] = {"once": run.peak_mib}
    enlarge = (
        "from stages.runtime.outputs import all_or_none\n"
        "from stages.runtime.splits import TEST, TRAIN, VALIDATION, load_split, save_split\n"
        "for path in (TRAIN, VALIDATION, TEST):\n"
        "    split = load_split(path)\n"
        "    with all_or_none() as outputs:\n"
        f"        save_split(outputs, path, split.images.repeat({times}, 1, 1, 1).numpy(), "
        f"split.labels.repeat({times}).numpy(), split.dataset)\n"
    )
    measured(project.folder, "python", "-c", enlarge)
    for stage in stages[1:]:
        run = measured(project.folder, "python", "-m", f"stages.{stage}")
        peaks[stage]["enlarged"] = run.peak_mib
    return {"times": times, "peaks": peaks}


def exported(project: Path) -> dict:
    """Return the milliseconds an image of each exported file, by the number of images at a time."""
    print("… formats", file=sys.stderr)
    found = {}
    for row in json.loads((project / "metrics/export.json").read_text()):
        command = [sys.executable, "-m", "benchmarks.formats", row["format"], str(project)]
        found[row["format"]] = json.loads(measured(ROOT, *command).output)
    return found


def predicted(project: Path, folder: Path, count: int) -> dict:
    """Time `python -m predict` on a folder of `count` test images as PNGs, its start included."""
    print("… predict", file=sys.stderr)
    folder.mkdir()
    images = load_file(project / "data/prepared/test.safetensors")["images"]
    for number in range(count):
        Image.fromarray(images[number % len(images)][0]).save(folder / f"{number:05}.png")
    run = measured(project, "python", "-m", "predict", "--json", str(folder))
    return {"images": count, "images_per_second": count / run.seconds, "peak_mib": run.peak_mib}


NAMES = {
    "published": "(a) the tutorial as published",
    "tutorial": "(b) `recipe: tutorial`, the same training here",
    "plain": "(b) by the plain loop, two epochs",
    "sklearn": "(c) scikit-learn's MLPClassifier",
    "products": "(d) the matrix products of (b) alone",
    "fast": "`recipe: fast`",
    "quick": "`recipe: quick`",
    "convolutional": "`recipe: convolutional`",
    "plain_convolutional": "the same by the plain loop, one epoch",
    "thorough": "`recipe: thorough`",
}


def table(results: dict) -> str:
    """Return the Markdown tables of the results."""
    rows = [
        "| training, 60,000 images | s per epoch | CPU s | s to 95.4 % | s in all | test accuracy "
        "| peak MiB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for key in (key for key in NAMES if key in results):
        run = results[key]
        accuracy = "" if key == "products" else f"{run['accuracy']:.2%}"
        if "mean" in run:
            accuracy = f"{run['mean']:.2%} ± {100 * run['standard_deviation']:.2f} (n = {run['n']})"
        cells = (
            NAMES[key] + star(run),
            f"{run['seconds_per_epoch']:.2f}",
            f"{run['cpu_seconds_per_epoch']:.2f}",
            f"{run['seconds_to_target']:.2f}" if run["seconds_to_target"] else "",
            f"{run['seconds_whole']:.1f}",
            accuracy,
            f"{run['peak_mib']:.0f}",
        )
        rows.append(f"| {' | '.join(cells)} |")

    whole = results["published"]["seconds_whole"]
    fast = results["fast"]["seconds_to_target"]
    pipeline = results["pipeline"]

    def ratio(one: str, other: str) -> str:
        """Return how many times as long an epoch of one takes as one of the other."""
        times = (
            results[one][key] / results[other][key]
            for key in ("seconds_per_epoch", "cpu_seconds_per_epoch")
        )
        return "{:.2f}; CPU {:.2f}".format(*times)

    cold, noop, bare = (pipeline[name] for name in ("cold", "noop", "bare_noop"))
    ratios = [
        ("(a) / (b), an epoch", ratio("published", "tutorial")),
        ("(c) / (b), an epoch", ratio("sklearn", "tutorial")),
        ("(b) / (d), an epoch", ratio("tutorial", "products")),
        ("(a) in all / `fast` to 95.4 %", f"{whole / fast:.0f}" if fast else "never"),
        (
            f"cold `dvc repro` / (a) in all{star(cold)}",
            f"{cold['seconds'] / whole:.2f} ({cold['seconds']:.1f} s; CPU {cold['cpu_seconds']:.1f} s)",
        ),
        (
            f"`dvc repro` with nothing to do / that of four stages that do nothing{star(noop)}",
            f"{noop['seconds'] / bare['seconds']:.2f} ({noop['seconds']:.2f} s)",
        ),
    ]
    times = results["memory"]["times"]
    for stage, peak in results["memory"]["peaks"].items():
        more = ""
        if "enlarged" in peak:
            more = f"; {times} times the images: {peak['enlarged'] / peak['once'] - 1:+.0%}"
        ratios.append((f"peak memory of {stage}", f"{peak['once']:.0f} MiB{more}"))
    rows += ["", "| what | measured |", "|---|--:|"]
    rows += [f"| {' | '.join(row)} |" for row in ratios]

    rows += ["", "| exported file | ms an image, one at a time | 256 at a time |", "|---|--:|--:|"]
    for name, milliseconds in results["formats"].items():
        cells = (name, *(f"{milliseconds[size]:.4f}" for size in ("1", "256")))
        rows.append(f"| {' | '.join(cells)} |")

    about, predict = results["machine"], results["predict"]
    rounds = f"{results['rounds']} alternating rounds" if results["rounds"] > 1 else "one round"
    rows += [
        "",
        f"`python -m predict` on a folder of {predict['images']:,} pictures: "
        f"{predict['images_per_second']:.0f} a second, {predict['peak_mib']:.0f} MiB at most.",
        "",
        f"{about['cores']} cores of {about['cpu']}, Python {about['python']}, "
        f"torch {about['torch']}, scikit-learn {about['scikit-learn']}, {about['date']}; medians of "
        f"{rounds}. CPU s: processor seconds of an epoch. {what_else(results)}",
    ]
    return "\n".join(rows) + "\n"


def what_else(results: dict) -> str:
    """Say in a sentence whether the machine was quiet."""
    measured = [results[key] for key in NAMES if key in results]
    measured += results["pipeline"].values()
    most = max(run["others"] for run in measured)
    if most > QUIET:
        return f"\\* Other processes used more than {QUIET:.0%} of the cores."
    return f"Other processes used at most {most:.1%} of the cores."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round on digits, as a test")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--thorough",
        type=int,
        default=0,
        metavar="SEEDS",
        help="train that too, half an hour each, and more",
    )
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    dataset, rounds, epochs = "mnist", arguments.rounds, None
    if arguments.quick:
        dataset, rounds, epochs = "digits", 1, 1

    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    results: dict = {"machine": machine() | {"date": date}, "rounds": rounds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Its projects have no .dvc/config.local, and DVC's default is a folder for all users.
        os.environ.setdefault("DVC_SITE_CACHE_DIR", str(folder / "site-cache"))
        images = folder / "images"
        images.mkdir()
        contender("images", images, dataset=dataset)
        runs: dict[str, list] = {
            key: [] for key in ("published", "tutorial", "sklearn", "products", "fast")
        }
        for _ in range(rounds):
            # The short ones, whose ratio is asked for, several times in turn.
            more = () if arguments.quick else ("products", "tutorial", "products", "tutorial")
            for key in (*runs, *more):
                runs[key].append(contender(key, images, epochs=epochs))
        for key, trainings in runs.items():
            results[key] = summary(trainings, with_tests=key == "published")
        plain = [contender("tutorial", images, plain=True, epochs=epochs or 2)]
        results["plain"] = summary(plain)
        plain = [contender("convolutional", images, plain=True, epochs=1)]
        results["plain_convolutional"] = summary(plain)
        quick = arguments.quick
        results["pipeline"] = whole_pipeline(folder, dataset, rounds, repeats=1 if quick else 3)
        results["formats"] = exported(folder / "cold0")
        results["predict"] = predicted(
            folder / "cold0", folder / "pictures", 300 if quick else 10_000
        )
        stages = STAGES[:2] if quick else STAGES
        results["memory"] = memory(folder, dataset, stages, times=2 if quick else 20)
        for key in ("quick", "convolutional"):
            results[key] = seeds(key, images, 1 if quick else 5, epochs)
        if arguments.thorough:
            results["thorough"] = seeds("thorough", images, arguments.thorough, epochs)
    text = table(results)
    (arguments.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.output / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
