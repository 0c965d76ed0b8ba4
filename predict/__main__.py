"""Classify pictures with the exported model.

python -m predict three.png photos/      # one line for each picture; a folder means its pictures
python -m predict --json - < three.png   # standard input; JSON lines
python -m predict --labelled test/       # how accurate? A picture's folder has the name of its class
"""

import argparse
import csv
import io
import json
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from predict.model import MODEL, Model
from predict.pictures import FORMATS, list_pictures, read
from stages.drawing.sheet import draw_sheet, to_picture
from stages.runtime import errors
from stages.runtime.errors import UserError, printable
from stages.runtime.outputs import all_or_none

BATCH_SIZE = 256  # bounds memory
MAX_SHOWN = 100  # pictures on a sheet
COLUMNS = 10


class Prediction(NamedTuple):
    path: Path
    image: np.ndarray  # the network's input, uint8 [C, H, W]
    probabilities: np.ndarray  # float32 [classes]
    classes: list[str]
    unsure: bool

    @property
    def actual(self) -> str:
        """The name of the picture's folder, composed (NFC) as the names of classes are."""
        return unicodedata.normalize("NFC", self.path.absolute().parent.name)

    def top(self, count: int = 1) -> list[tuple[str, float]]:
        """Return the names of the most probable classes, and their probabilities."""
        order = np.argsort(-self.probabilities, kind="stable")[:count].tolist()
        return [
            (self.classes[label], round(float(self.probabilities[label]), 6)) for label in order
        ]

    def to_json(self) -> str:
        (first, probability), (second, runner_up) = self.top(2)
        values = {
            "path": str(self.path),
            "class": first,
            "probability": probability,
            "runner_up": second,
            "runner_up_probability": runner_up,
            "unsure": self.unsure,
            "probabilities": {
                name: round(float(each), 6)
                for name, each in zip(self.classes, self.probabilities, strict=True)
            },
        }
        return json.dumps(values)

    def to_text(self, width: int, count: int) -> str:
        """Format as a line in which the path takes `width` characters, with `count` classes."""
        longest = max(len(printable(name)) for name in self.classes)
        best, *others = (
            f"{printable(name):<{longest}}  {probability:7.2%}"
            for name, probability in self.top(count)
        )
        rest = f"   ({', '.join(others)})" if others else ""
        return f"{printable(self.path):<{width}}  {best}{rest}" + "  unsure" * self.unsure


def classify(
    paths: list[Path], model: Model, unsure_below: float
) -> Iterator[Prediction | UserError]:
    """Yield a prediction or an error for each picture, in order."""
    for start in range(0, len(paths), BATCH_SIZE):
        batch = paths[start : start + BATCH_SIZE]
        results = [read(path, model) for path in batch]  # threads were not faster
        images = [image for image in results if isinstance(image, np.ndarray)]
        probabilities = iter(model(np.stack(images)) if images else ())
        for path, result in zip(batch, results, strict=True):
            if isinstance(result, UserError):
                yield result
            else:
                row = next(probabilities)
                yield Prediction(path, result, row, model.classes, bool(row.max() < unsure_below))


def save_sheet(predictions: list[Prediction], layout: str, path: Path) -> None:
    if not predictions:
        raise UserError(f"{path}: no picture to show")
    captions = [
        (name, f"{probability:.1%}")
        for prediction in predictions
        for name, probability in prediction.top()
    ]
    pictures = [to_picture(prediction.image, layout) for prediction in predictions]
    sheet = draw_sheet(pictures, captions, min(COLUMNS, len(pictures)))
    with all_or_none() as outputs:
        outputs.write_bytes(path, sheet)


def summarise(predictions: list[tuple[Path, str, str]]) -> str:
    """Return the accuracy and the mistakes of paths, predicted and actual classes."""
    mistakes = [one for one in predictions if one[1] != one[2]]
    correct, count = len(predictions) - len(mistakes), len(predictions)
    lines = [f"accuracy: {correct / count:.2%} ({correct:,} of {count:,} pictures)"]
    pairs = Counter((predicted, actual) for _, predicted, actual in mistakes)
    lines += [
        f"{printable(actual)} as {printable(predicted)}: {times:,}"
        for (predicted, actual), times in pairs.most_common()
    ]
    lines += [
        f"mistake: {printable(path)}: {printable(predicted)}" for path, predicted, _ in mistakes
    ]
    return "\n".join(lines)


def printer(
    options: argparse.Namespace, classes: list[str], width: int
) -> Callable[[Prediction], None]:
    """Return a function that prints a prediction, as the options say; print a table's header.

    `width` is that of the longest path.
    """
    if options.json:
        return lambda one: print(one.to_json())
    if options.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        places = range(1, min(options.top, len(classes)) + 1)
        table.writerow(
            ["path", *chain(*((f"class_{k}", f"probability_{k}") for k in places)), "unsure"]
        )
        return lambda one: table.writerow(
            [one.path, *chain(*one.top(options.top)), int(one.unsure)]
        )
    return lambda one: print(one.to_text(width, options.top))


def parse_arguments() -> argparse.Namespace:
    summary, _, examples = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        "python -m predict",
        description=summary,
        epilog=examples.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE",
        help=f"a file ({', '.join(FORMATS)}), a folder, or - for standard input",
    )
    parser.add_argument("--recursive", action="store_true", help="also read subfolders")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON lines, with all classes")
    form.add_argument("--csv", action="store_true", help="print a table")
    parser.add_argument(
        "--top", type=int, default=2, metavar="K", help="how many classes a line has; default: 2"
    )
    parser.add_argument(
        "--unsure",
        type=float,
        metavar="P",
        help="mark less probable predictions; default: the model's, from its validation set",
    )
    parser.add_argument(
        "--labelled",
        action="store_true",
        help="folders have the names of classes: also print accuracy, confusions and mistakes",
    )
    parser.add_argument(
        "--show",
        type=Path,
        metavar="FILE.svg",
        help=f"draw the network's input for the first {MAX_SHOWN} pictures",
    )
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="default: models/model.onnx of this project"
    )
    options = parser.parse_args()
    if options.show and options.show.suffix.lower() != ".svg":
        parser.error(f"--show {printable(options.show)}: the name must end in .svg")
    if options.show and not options.show.parent.is_dir():
        parser.error(f"--show {printable(options.show)}: no such folder; create it first")
    if options.top < 1:
        parser.error(f"--top {options.top}: use 1 or more")
    if options.unsure is not None and not 0 <= options.unsure <= 1:
        parser.error(f"--unsure {options.unsure}: use 0 (mark none) to 1")
    return options


def main() -> None:
    options = parse_arguments()
    model = Model(options.model)
    failed = False

    def report(error: UserError) -> None:
        nonlocal failed
        failed = True
        print(f"error: {error}", file=sys.stderr)

    paths = []
    for argument in options.pictures:
        paths += list_pictures(argument, options.recursive or options.labelled, report)
    width = max((len(printable(path)) for path in paths), default=0)
    show = printer(options, model.classes, width)
    shown: list[Prediction] = []
    labelled: list[tuple[Path, str, str]] = []
    below = model.unsure_below if options.unsure is None else options.unsure
    for result in classify(paths, model, below):
        if isinstance(result, UserError):
            report(result)
            continue
        if options.labelled and result.actual not in model.classes:
            line = f"its folder, {result.actual}, is no class of the model; rename or move it"
            report(UserError(f"{result.path}: {line}"))
            continue
        show(result)
        labelled.append((result.path, result.top()[0][0], result.actual))
        if options.show and len(shown) < MAX_SHOWN:
            shown.append(result)
    sys.stdout.flush()
    if options.labelled and labelled:
        print(summarise(labelled), file=sys.stderr if options.json or options.csv else sys.stdout)
    if options.show:
        save_sheet(shown, model.layout, options.show)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    # Names that the terminal's encoding lacks are escaped.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        errors.run_command(main)
    except OSError as error:  # of standard output: all others have a file name
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `| head` ends before us
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
        sys.exit(1)
