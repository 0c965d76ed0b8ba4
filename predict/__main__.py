"""Say what pictures show.

python -m predict three.png photos/      # a line for each; of a folder, the pictures in it
python -m predict --json - < three.png   # standard input; JSON lines
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import NamedTuple

import numpy as np

from predict.model import MODEL, Model
from stages.common import errors
from stages.common.errors import UserError, printable
from stages.common.files import whole_files
from stages.common.params import Layout
from stages.datasets.pictures import FORMATS, MAX_BYTES, SUFFIXES, read_picture
from stages.drawing.sheet import draw_sheet

BATCH = 256  # pictures at a time; bounds memory
IN_MEMORY = 1_000_000  # bytes of standard input
STDIN = Path("-")  # known by its identity: ./- is a file
SHOWN = 100  # pictures on a sheet
COLUMNS = 10


class Answer(NamedTuple):
    """What the network says of one picture, and what it saw of it."""

    path: Path
    seen: np.ndarray  # uint8 [28, 28], 255 is ink
    probabilities: np.ndarray  # float32 [classes]
    classes: list[str]

    @property
    def ranking(self) -> list[int]:
        """The classes' numbers, the most probable first."""
        return np.argsort(-self.probabilities, kind="stable").tolist()

    def to_json(self) -> str:
        probabilities = [round(float(one), 6) for one in self.probabilities]
        first, second = self.ranking[:2]
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
        names = [printable(name) for name in self.classes]
        letters = max(map(len, names))
        (name, share), (other, rest) = (
            (f"{names[one]:<{letters}}", self.probabilities[one]) for one in self.ranking[:2]
        )
        return f"{printable(self.path):<{width}}  {name}  {share:7.2%}   ({other}  {rest:7.2%})"


def list_pictures(name: str) -> list[Path]:
    """Return a file as it is; of a folder, the pictures in it (not in its subfolders), sorted.

    Raises:
        UserError: the folder has none, or cannot be read.
    """
    if not name:
        raise UserError("an empty name; give a picture, a folder, or - for standard input")
    path = STDIN if name == "-" else Path(name)
    if path is STDIN or not path.is_dir():
        return [path]
    try:
        pictures = sorted(
            one
            for one in path.iterdir()  # a broken link is told of, a pipe would be waited for
            if one.suffix.lower() in SUFFIXES and (one.is_file() or not one.exists())
        )
    except OSError as error:
        raise UserError(f"{printable(path)}: {error.strerror}") from None
    if not pictures:
        raise UserError(f"{printable(path)}: no pictures in this folder ({', '.join(FORMATS)})")
    return pictures


def read(path: Path, layout: Layout) -> np.ndarray | UserError:
    """Return the picture laid out, uint8 [28, 28], or what is wrong with the file."""
    try:
        if path is not STDIN:
            return read_picture(path, layout)
        if sys.stdin is None:
            return UserError("-: standard input is closed")
        with SpooledTemporaryFile(IN_MEMORY) as copy:  # Pillow goes back and forth
            while copy.tell() <= MAX_BYTES and (block := sys.stdin.buffer.read(IN_MEMORY)):
                copy.write(block)
            return read_picture(copy, layout)
    except UserError as error:
        return UserError(f"{printable(path)}: {error}")
    except OSError as error:
        return UserError(f"{printable(path)}: {error.strerror}")


def classify(paths: list[Path], model: Model) -> Iterator[Answer | UserError]:
    """Yield the answer or the error for each picture; within a batch, the errors come first."""
    for first in range(0, len(paths), BATCH):
        batch = paths[first : first + BATCH]
        results = [
            read(path, model.layout) for path in batch
        ]  # threads were no faster, and took more memory
        yield from (result for result in results if isinstance(result, UserError))
        seen = [
            (path, image)
            for path, image in zip(batch, results, strict=True)
            if not isinstance(image, UserError)
        ]
        if seen:
            probabilities = model(np.stack([image for _, image in seen]))
            for (path, image), row in zip(seen, probabilities, strict=True):
                yield Answer(path, image, row, model.classes)


def save_sheet(answers: list[Answer], path: Path) -> None:
    if not answers:
        raise UserError(f"{printable(path)}: no picture to show")
    captions = [
        (answer.classes[answer.ranking[0]], f"{answer.probabilities.max():.1%}")
        for answer in answers
    ]
    sheet = draw_sheet([answer.seen for answer in answers], captions, min(COLUMNS, len(answers)))
    with whole_files() as outputs:
        outputs.write_bytes(path, sheet)


def parse() -> argparse.Namespace:
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
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    parser.add_argument(
        "--show",
        type=Path,
        metavar="FILE.png",
        help=f"write what the network saw of the first {SHOWN} pictures",
    )
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="an exported model (models/model.onnx)"
    )
    options = parser.parse_args()
    if options.show and options.show.suffix.lower() != ".png":
        parser.error(f"--show {printable(options.show)}: the name must end in .png")
    return options


def main() -> None:
    options = parse()
    model = Model(options.model)
    failed = False
    paths = []
    for name in options.pictures:
        try:
            paths += list_pictures(name)
        except UserError as error:
            failed = True
            print(f"error: {error}", file=sys.stderr)
    width = max((len(printable(path)) for path in paths), default=0)
    shown = []
    for result in classify(paths, model):
        if isinstance(result, UserError):
            failed = True
            print(f"error: {result}", file=sys.stderr)
            continue
        print(result.to_json() if options.json else result.to_text(width))
        if options.show and len(shown) < SHOWN:
            shown.append(result)
    print(end="", flush=True)
    if options.show:
        save_sheet(shown, options.show)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    if sys.stdout:  # else it was closed by the caller
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that it cannot encode
    try:
        errors.run(main)
    except OSError as error:  # of standard output: all others name a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `| head` has read enough
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
        sys.exit(1)
