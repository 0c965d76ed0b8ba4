"""A folder of pictures, in a folder for each class: data/NAME/<class>/*.png.

It may have train/ and test/ above the classes. Their order is that of their names, on any file system
and under any locale.
"""

import hashlib
import signal
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from stages.common.errors import UserError, printable
from stages.common.files import scratch_array
from stages.common.params import MOST_CLASSES, SIDE, Layout
from stages.common.processes import end_with_parent, usable_cores
from stages.common.splits import TRAIN
from stages.common.stage import ignored
from stages.datasets.description import DATA
from stages.datasets.pictures import SUFFIXES, NoMemoryError, PictureError, read_picture

PARTS = ("train", "test")
AT_ONCE = 64  # pictures that a process reads before it hands them over
FEW = 300  # pictures that are read before other processes have started
TOLD = 5  # files that a message names
FEWER = "close other programs, or read on one core: taskset --cpu-list 0 dvc repro prepare"


class Picture(NamedTuple):
    path: str  # of 200,000, `Path` objects would take 100 MB
    label: int
    test: bool


def list_pictures(name: str) -> tuple[list[str], bool, list[Picture]]:
    """Return the names of the classes, whether the folder has train/ and test/, and its pictures.

    Hidden files, and what .dvcignore names, are passed over.

    Raises:
        UserError: something in the folder is not as it should be; the line names it.
    """
    root = DATA / name
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; make it with a folder of pictures for each class, or set "
            "prepare.dataset to one that is there"
        )
    divided = any(_folders(root / part) for part in PARTS if (root / part).is_dir())
    if divided:
        _refuse_other_parts(root)
    tops = [root / part for part in PARTS] if divided else [root]
    for top in (root, *tops):
        if stray := [path for path in _entries(top) if path.suffix.lower() in SUFFIXES]:
            raise UserError(
                f"{printable(stray[0])}: beside the folders of the classes; move it into one"
            )
    folders = [_classes(top) for top in tops]
    classes = sorted(folders[0])
    if divided and classes != sorted(folders[1]):
        [one, *_] = sorted(set(folders[0]) ^ set(folders[1]))
        raise UserError(
            f"{root}: the class {one} is not in both train/ and test/; add it or remove it"
        )
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise UserError(
            f"{root}: {len(classes)} classes; use 2 to {MOST_CLASSES} folders with the pictures of one "
            "class each"
        )
    pictures = [
        Picture(str(path), label, divided and top.name == "test")
        for top, of_top in zip(tops, folders, strict=True)
        for label, one in enumerate(classes)
        for path in _files(of_top[one])
    ]
    return classes, divided, pictures


def _refuse_other_parts(root: Path) -> None:
    inside = {path.name for path in _folders(root)}
    if missing := set(PARTS) - inside:
        raise UserError(
            f"{root}: has no {missing.pop()}/ beside the other part; add it, or move the folders of "
            "the classes up"
        )
    if others := sorted(inside - set(PARTS)):
        raise UserError(
            f"{printable(root / others[0])}: beside train/ and test/; move its pictures into these "
            "(prepare.validation_size holds some of train/ back)"
        )


def _classes(top: Path) -> dict[str, Path]:
    """Return the folders of the classes by their names.

    A name is composed (NFC), since macOS and Linux store the same accents in two ways.
    """
    found: dict[str, Path] = {}
    similar: dict[str, str] = {}
    for path in _folders(top):
        name = unicodedata.normalize("NFC", path.name)
        if not name.isprintable() or name != name.strip():
            raise UserError(
                f"{printable(path)}: the name of a class has printable letters, and no space at its "
                "ends; rename it"
            )
        other = similar.setdefault(name.casefold(), name)
        if other != name or name in found:
            raise UserError(
                f"{top}: the classes {other} and {name} differ in case only, or in how their accents "
                "are stored, which not all file systems keep apart; rename one"
            )
        found[name] = path
    return found


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted by name, without what is hidden or ignored."""
    rules = ignored()
    kept = []
    for path in folder.iterdir():
        if path.name == ".dvcignore":
            raise UserError(
                f"{printable(path)}: of these files only the one beside dvc.yaml counts; move its "
                "lines there"
            )
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not path.is_file():
            raise UserError(f"{printable(path)}: a link, not to a file; replace it by a folder")
        if not rules.match_file(f"{path}/" if path.is_dir() else str(path)):
            kept.append(path)
        elif path.is_dir():
            raise UserError(
                f"{printable(path)}: a folder that .dvcignore hides; rename or remove it"
            )
    return sorted(kept, key=lambda path: (unicodedata.normalize("NFC", path.name), path.name))


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _files(folder: Path) -> list[Path]:
    files = _entries(folder)
    for path in files:
        if path.is_dir():
            raise UserError(
                f"{printable(path)}: a folder in the folder of a class; move its pictures up"
            )
        if not path.is_file():
            raise UserError(f"{printable(path)}: neither a file nor a folder; remove it")
    if not files:
        raise UserError(
            f"{printable(folder)}: no pictures of this class; add some or remove the folder"
        )
    return files


def read_pictures(pictures: list[Picture], layout: Layout) -> tuple[np.ndarray, dict[int, str]]:
    """Read pictures on all cores and lay them out: uint8 [N, 28, 28], mapped into a file.

    Also returns what is wrong with those that cannot be read, by their index; they stay black.

    Raises:
        UserError: memory ran out, which is no fault of a picture's.
    """
    images = scratch_array((len(pictures), SIDE, SIDE), TRAIN.parent)
    chunks = [pictures[first : first + AT_ONCE] for first in range(0, len(pictures), AT_ONCE)]
    problems, done = {}, 0
    with (
        _readers(len(pictures)) as map_all,
        tqdm(total=len(pictures), desc="pictures", disable=None) as bar,
    ):
        try:
            for found, wrong in map_all(partial(_read_some, layout=layout), chunks):
                images[done : done + len(found)] = found
                problems |= {done + place: reason for place, reason in wrong.items()}
                done += len(found)
                bar.update(len(found))
        except BrokenProcessPool:
            raise UserError(
                f"{pictures[done].path}: this picture, or one after it, was being read when the system "
                f"killed the process, as it does if memory runs out; {FEWER}"
            ) from None
    return images, problems


def _read_some(pictures: list[Picture], layout: Layout) -> tuple[np.ndarray, dict[int, str]]:
    images, problems = np.zeros((len(pictures), SIDE, SIDE), np.uint8), {}
    for place, picture in enumerate(pictures):
        try:
            images[place] = read_picture(Path(picture.path), layout)
        except NoMemoryError as error:
            raise UserError(f"{picture.path}: {error}; {FEWER}") from None
        except PictureError as error:
            problems[place] = str(error)
        except OSError as error:
            problems[place] = error.strerror
    return images, problems


@contextmanager
def _readers(count: int) -> Iterator:
    """Yield a `map` over processes, or over this one if there is little to do."""
    cores = usable_cores()
    if count <= FEW or cores == 1:
        yield map
        return
    with ProcessPoolExecutor(cores, initializer=_serve_parent) as pool:
        try:
            # No more than a few chunks are under way: what was read is not to pile up.
            yield partial(_map_in_order, pool, 4 * cores)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _map_in_order(pool: ProcessPoolExecutor, ahead: int, function, items: list) -> Iterator:
    pending = []
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()


def _serve_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it, or when it says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an exception would be handed over as a result
    end_with_parent()


def equal_pictures(images: np.ndarray) -> np.ndarray:
    """Return, for each of images [N, …], the index of the first that equals it: int64 [N]."""
    first: dict[bytes, int] = {}
    return np.array(
        [
            first.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), index)
            for index, image in enumerate(images)
        ],
        np.int64,
    )
