"""Classify pictures with the exported model.

python -m predict three.png photos/      # one line for each picture; a folder means its pictures
python -m predict --json - < three.png   # standard input; JSON lines
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from predict.model import MODEL, Model
from stages.datasets.layout import read_picture
from stages.datasets.pictures import FORMATS, SUFFIXES
from stages.drawing.sheet import draw_sheet, to_picture
from stages.runtime import errors
from stages.runtime.errors import UserError, printable
from stages.runtime.outputs import all_or_none

BATCH_SIZE = 256  # bounds memory
MAX_STDIN = 100_000_000  # bytes
STDIN = Path("-")  # compared by identity: ./- is a file
MAX_SHOWN = 100  # pictures on a sheet
MAX_SUFFIXES = 10  # in a line
COLUMNS = 10


class Prediction(NamedTuple):
    path: Path
    image: np.ndarray  # the network's input, uint8 [C, H, W]
    probabilities: np.ndarray  # float32 [classes]
    classes: list[str]

    def top_two(self) -> list[int]:
        return np.argsort(-self.probabilities, kind="stable")[:2].tolist()

    def to_json(self) -> str:
        probabilities = [round(float(probability), 6) for probability in self.probabilities]
        first, second = self.top_two()
        values = {
            "path": str(self.path),
            "class": self.classes[first],
            "probability": probabilities[first],
            "runner_up": self.classes[second],
            "runner_up_probability": probabilities[second],
            "probabilities": dict(zip(self.classes, probabilities, strict=True)),
        }
        return json.dumps(values)

    def to_text(self, width: int) -> str:
        """Format as a line in which the path takes `width` characters."""
        names = [printable(name) for name in self.classes]
        longest = max(map(len, names))
        best, runner_up = (
            f"{names[number]:<{longest}}  {self.probabilities[number]:7.2%}"
            for number in self.top_two()
        )
        return f"{printable(self.path):<{width}}  {best}   ({runner_up})"


def list_pictures(argument: str) -> list[Path]:
    """Return a file's path, or the sorted paths of the pictures in a folder (not its subfolders).

    Hidden files are no pictures. Other files without a suffix of `SUFFIXES` get a line on stderr.

    Raises:
        UserError: the argument is empty, or the folder has no pictures or cannot be read.
    """
    if not argument:
        raise UserError("an empty name; give a picture, a folder, or - for standard input")
    path = STDIN if argument == "-" else Path(argument)
    try:
        if path is STDIN or not path.is_dir():
            return [path]
        entries = sorted(path.iterdir())
        files = [file for file in entries if file.name[0] != "." and not file.is_dir()]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
    formats = ", ".join(FORMATS)
    if others := set(files).difference(pictures):
        suffixes = sorted({file.suffix.lower() or "no suffix" for file in others})
        shown = ", ".join(suffixes[:MAX_SUFFIXES]) + ", …" * (len(suffixes) > MAX_SUFFIXES)
        line = f"{path}: {len(others)} not named as pictures of {formats} ({shown})"
        print(f"skipped: {printable(line)}", file=sys.stderr)
    if not pictures:
        raise UserError(f"{path}: no pictures in this folder ({formats}); subfolders are not read")
    return pictures


def read(path: Path, model: Model) -> np.ndarray | UserError:
    """Return the network's input for a picture, uint8 [C, H, W], or why it cannot be read."""
    try:
        if path is not STDIN:
            if path.exists() and not path.is_file():  # to open a pipe may block
                return UserError(f"{path}: a pipe or a device; remove it, or read it as - < FILE")
            with path.open("rb") as file:
                return read_picture(file, model.layout, model.shape)
        content = sys.stdin.buffer.read(MAX_STDIN + 1)
        if len(content) > MAX_STDIN:
            return UserError(f"{path}: larger than {MAX_STDIN // 10**6} megabytes; scale it down")
        return read_picture(io.BytesIO(content), model.layout, model.shape)
    except UserError as error:
        return UserError(f"{path}: {error}")
    except OSError as error:
        return UserError(f"{path}: {error.strerror}")


def classify(paths: list[Path], model: Model) -> Iterator[Prediction | UserError]:
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
                yield Prediction(path, result, next(probabilities), model.classes)


def save_sheet(predictions: list[Prediction], layout: str, path: Path) -> None:
    if not predictions:
        raise UserError(f"{path}: no picture to show")
    captions = [
        (prediction.classes[prediction.top_two()[0]], f"{prediction.probabilities.max():.1%}")
        for prediction in predictions
    ]
    pictures = [to_picture(prediction.image, layout) for prediction in predictions]
    sheet = draw_sheet(pictures, captions, min(COLUMNS, len(pictures)))
    with all_or_none() as outputs:
        outputs.write_bytes(path, sheet)


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
    parser.add_argument("--json", action="store_true", help="print JSON lines")
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
        try:
            paths += list_pictures(argument)
        except UserError as error:
            report(error)
    width = max((len(printable(path)) for path in paths), default=0)
    shown: list[Prediction] = []
    for result in classify(paths, model):
        if isinstance(result, UserError):
            report(result)
            continue
        print(result.to_json() if options.json else result.to_text(width))
        if options.show and len(shown) < MAX_SHOWN:
            shown.append(result)
    sys.stdout.flush()
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
