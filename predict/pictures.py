"""The pictures that a command names: their list, and each as the network's input."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from predict.model import Model
from stages.datasets import pictures
from stages.datasets.layout import read_picture
from stages.runtime.errors import UserError, printable

MAX_STDIN = 100_000_000  # bytes
STDIN = Path("-")  # compared by identity: ./- is a file
MAX_SUFFIXES = 10  # in a line

FORMATS: tuple[str, ...] = pictures.FORMATS
SUFFIXES = pictures.SUFFIXES
HEIC = {".heic", ".heif", ".hif"}
# Not for the stages, whose results depend on pinned packages only.
try:
    from pillow_heif import register_heif_opener
except ImportError:
    HINT = "; `pip install pillow-heif` adds HEIC"
else:
    register_heif_opener()
    FORMATS, SUFFIXES, HINT = (*FORMATS, "HEIF"), SUFFIXES | HEIC, ""


def list_pictures(
    argument: str, recursive: bool, report: Callable[[UserError], None]
) -> list[Path]:
    """Return a file's path, or the sorted paths of the pictures in a folder, or also below it.

    Hidden files are no pictures. Other files without a suffix of `SUFFIXES` get a line on stderr. A
    folder that cannot be read, or has no pictures, is reported.
    """
    if not argument:
        report(UserError("an empty name; give a picture, a folder, or - for standard input"))
        return []
    path = STDIN if argument == "-" else Path(argument)
    files: list[Path] = []
    folders = [path]
    failed = False
    for folder in folders:
        try:
            if path is STDIN or not folder.is_dir():
                return [path]
            inside = sorted(file for file in folder.iterdir() if file.name[0] != ".")
            files += [file for file in inside if not file.is_dir()]
            if recursive:  # a link may lead back to where it is
                folders += [file for file in inside if file.is_dir() and not file.is_symlink()]
        except OSError as error:
            failed = True
            report(UserError(f"{folder}: {error.strerror}"))
    chosen = [file for file in files if file.suffix.lower() in SUFFIXES]
    formats = ", ".join(FORMATS)
    if others := set(files).difference(chosen):
        suffixes = sorted({file.suffix.lower() or "no suffix" for file in others})
        shown = ", ".join(suffixes[:MAX_SUFFIXES]) + ", …" * (len(suffixes) > MAX_SUFFIXES)
        line = f"{path}: {len(others)} not named as pictures of {formats} ({shown})"
        hint = HINT if HEIC.intersection(suffixes) else ""
        print(f"skipped: {printable(line)}{hint}", file=sys.stderr)
    if not (chosen or failed):
        hint = "" if recursive else "; --recursive also reads subfolders"
        report(UserError(f"{path}: no pictures in this folder ({formats}){hint}"))
    return chosen


def read(path: Path, model: Model) -> np.ndarray | UserError:
    """Return the network's input for a picture, uint8 [C, H, W], or why it cannot be read."""
    try:
        if path is not STDIN:
            if path.exists() and not path.is_file():  # to open a pipe may block
                return UserError(f"{path}: a pipe or a device; remove it, or read it as - < FILE")
            with path.open("rb") as file:
                return read_picture(file, model.layout, model.shape, FORMATS)
        content = sys.stdin.buffer.read(MAX_STDIN + 1)
        if len(content) > MAX_STDIN:
            return UserError(f"{path}: larger than {MAX_STDIN // 10**6} megabytes; scale it down")
        return read_picture(io.BytesIO(content), model.layout, model.shape, FORMATS)
    except UserError as error:
        hint = HINT if path.suffix.lower() in HEIC else ""
        return UserError(f"{path}: {error}{hint}")
    except OSError as error:
        return UserError(f"{path}: {error.strerror}")
