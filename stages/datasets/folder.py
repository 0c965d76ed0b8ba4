"""A folder of pictures with a subfolder for each class: data/NAME/<class>/*.png.

There may be train/ and test/ above the classes. Classes are ordered by name, on any file system and
under any locale.
"""

import hashlib
import io
import os
import re
import signal
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from stages.datasets.description import DATA, MAX_CLASSES, is_printable
from stages.datasets.layout import Shape, read_picture
from stages.datasets.params import Layout
from stages.datasets.pictures import (
    SUFFIXES,
    NoMemoryError,
    PictureError,
    check_size,
)
from stages.runtime.errors import UserError, refuse
from stages.runtime.inputs import Inputs, ignored, refuse_rules
from stages.runtime.outputs import scratch_array
from stages.runtime.processes import end_with_parent, usable_cores
from stages.runtime.splits import TRAIN

Result = TypeVar("Result")
Entry = TypeVar("Entry")

SPLITS = ("train", "test")
CHUNK = 64  # pictures that a process reads before it returns them
FEW = 300  # pictures that are read before other processes have started
ADVICE = "close other programs, or read on one core: taskset --cpu-list 0 dvc repro prepare"


class Picture(NamedTuple):
    path: str  # 200,000 `Path` objects would take 100 MB
    label: int
    test: bool


def list_pictures(name: str, inputs: Inputs | None = None) -> tuple[list[str], bool, list[Picture]]:
    """Return the class names, whether the folder has train/ and test/, and its pictures.

    Hidden files, and files and folders that .dvcignore names, are skipped.

    Raises:
        UserError: the folder has another form, or other files than when `inputs` were digested.
    """
    root = DATA / name
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; make it with a folder of pictures for each class, or set "
            "prepare.dataset to an existing one"
        )
    refuse_rules(DATA)
    if ignored()(f"{root}/"):
        raise UserError(
            f"{root}: a folder that .dvcignore hides; rename it, and set prepare.dataset to that name"
        )
    tops = [root / split for split in SPLITS]
    has_test = any(path.is_dir() for top in tops if top.is_dir() for path in _entries(top))
    if has_test:
        _check_splits(root)
    else:
        tops = [root]
    folders = _collect(_class_folders, tops)
    classes = sorted(folders[0])
    refuse(
        f"{root}: the class {name} is not in both train/ and test/; add it or remove it"
        for name in sorted(set(folders[0]) ^ set(folders[-1]))
    )
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise UserError(
            f"{root}: {len(classes)} classes; use 2 to {MAX_CLASSES} folders with the pictures of one "
            "class each"
        )
    files = _collect(_files, [by_class[name] for by_class in folders for name in classes])
    labels = [(label, top.name == "test") for top in tops for label in range(len(classes))]
    pictures = [
        Picture(str(path), label, has_test and test)
        for (label, test), paths in zip(labels, files, strict=True)
        for path in paths
    ]
    if inputs:
        _check_listing(root, pictures, inputs)
    return classes, has_test, pictures


def _check_listing(root: Path, pictures: list[Picture], inputs: Inputs) -> None:
    depth = pictures[0].path.count("/")
    listed = {picture.path for picture in pictures}
    digested = {
        name
        for name in inputs.fingerprint
        if name.startswith(f"{root}/") and name.count("/") == depth and "/." not in name
    }
    for path in listed ^ digested:
        inputs.compare(path, "new" if path in listed else "nothing")


def _check_splits(root: Path) -> None:
    names = {path.name for path in _folders(root)}
    if missing := set(SPLITS) - names:
        raise UserError(
            f"{root}: has no {missing.pop()}/; add it, or move the folders of the classes up"
        )
    refuse(
        f"{root / name}: next to train/ and test/; move its pictures into these "
        "(prepare.validation_size holds some of train/ back)"
        for name in sorted(names - set(SPLITS))
    )


def _class_folders(top: Path) -> dict[str, Path]:
    """Return the folders of the classes by name.

    Names are composed (NFC), since macOS and Linux store the same accents in two ways.
    """
    folders: dict[str, Path] = {}
    similar: dict[str, str] = {}
    faults = []
    for path in _folders(top):
        name = unicodedata.normalize("NFC", path.name)
        if not is_printable(name) or name != name.strip():
            faults.append(
                f"{path}: the name of a class has printable letters, and no space at its ends; rename "
                "it"
            )
            continue
        earlier = similar.setdefault(name.casefold(), name)
        if earlier != name or name in folders:
            faults.append(
                f"{top}: the classes {earlier} and {name} differ in case only, or in how their accents "
                "are stored, which not all file systems keep apart; rename one"
            )
        folders[name] = path
    refuse(faults)
    return folders


def _entries(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted by name, without hidden and ignored ones."""
    refuse_rules(folder)
    is_ignored = ignored()

    def to_path(entry: os.DirEntry) -> Path | None:
        if entry.name.startswith("."):
            return None
        # An entry knows its kind. For a broken link it raises, but `Path` says neither kind.
        known = Path(entry.path) if entry.is_symlink() else entry
        is_folder = known.is_dir()
        if is_folder and is_ignored(entry.path):  # perhaps by "*.orig"
            raise UserError(
                f"{entry.path}: a folder that .dvcignore hides, by a line without / at its end; rename "
                "or remove the folder, or add the / to skip it"
            )
        if is_ignored(f"{entry.path}/" if is_folder else entry.path):
            return None
        if re.search(r"[\udc80-\udcff]", entry.name):  # bytes that Python could not decode
            raise UserError(f"{entry.path}: the name is not UTF-8, as DVC needs it; rename it")
        if entry.is_symlink() and not known.is_file():
            raise UserError(f"{entry.path}: a link, not to a file; replace it by a folder")
        if not (is_folder or known.is_file()):
            raise UserError(
                f"{entry.path}: a pipe or a device, which DVC would wait for; remove it"
            )
        return Path(entry.path)

    entries = sorted(
        os.scandir(folder), key=lambda entry: (unicodedata.normalize("NFC", entry.name), entry.name)
    )
    return [path for path in _collect(to_path, entries) if path]


def _folders(folder: Path) -> list[Path]:
    entries = _entries(folder)
    refuse(
        f"{path}: next to the folders of the classes; move it into one"
        for path in entries
        if path.suffix.lower() in SUFFIXES
    )
    return [path for path in entries if path.is_dir()]


def _files(folder: Path) -> list[Path]:
    files = _entries(folder)
    refuse(
        f"{path}: no file; the folder of a class has pictures only (the folders above classes are "
        "called train/ and test/); move or remove it"
        for path in files
        if not path.is_file()
    )
    if not files:
        raise UserError(f"{folder}: no pictures of this class; add some or remove the folder")
    return files


def _collect(function: Callable[[Entry], Result], entries: Iterable[Entry]) -> list[Result]:
    """Return the results of a function for all entries, or raise the faults of all together."""
    results: list[Result] = []
    faults: list[str] = []
    for entry in entries:
        try:
            results.append(function(entry))
        except UserError as error:
            faults += error.args
    refuse(faults)
    return results


def read_pictures(
    paths: list[str], layout: Layout, shape: Shape, inputs: Inputs
) -> tuple[np.ndarray, dict[int, str]]:
    """Read and lay out pictures: uint8 [N, C, H, W], mapped into a file; C is 1 if all are grey.

    N counts the readable ones, in the order of `paths`. Also returns the reason for each unreadable
    one, by its index in `paths`.

    Raises:
        UserError: memory ran out, which is no fault of a picture, or one has changed.
    """
    images = scratch_array((len(paths), *shape), TRAIN.parent)
    problems: dict[int, str] = {}
    grey, read = shape[0] > 1, partial(read_picture, layout=layout, shape=shape)
    for index, result in enumerate(read_all(paths, read, inputs, "pictures")):
        if isinstance(result, str):
            problems[index] = result
        else:
            images[index - len(problems)] = result
            grey = grey and bool((result == result[0]).all())
    images = images[: len(paths) - len(problems)]
    if not grey:
        return images, problems
    of_one = scratch_array((len(images), 1, *shape[1:]), TRAIN.parent)
    of_one[:] = images[:, :1]
    return of_one, problems


def read_all(
    paths: list[str], read: Callable[[BinaryIO], Result], inputs: Inputs, title: str
) -> Iterator[Result | str]:
    """Yield what `read` returns of each picture, or why it cannot be read, on all cores.

    Raises:
        UserError: memory ran out, which is no fault of a picture, or one has changed.
    """
    number = 0
    with _readers(len(paths)) as map_all:
        results = map_all(partial(_read, read=read), paths)
        try:
            for digest, result in tqdm(results, desc=title, total=len(paths), disable=None):
                if digest:
                    inputs.compare(paths[number], digest)
                yield result
                number += 1
        except BrokenProcessPool:
            raise UserError(
                f"{paths[number]}: the system killed the process that read this picture, or one after "
                f"it, as it does if memory runs out; {ADVICE}"
            ) from None


def _read(path: str, read: Callable[[BinaryIO], Result]) -> tuple[str | None, Result | str]:
    """Return the SHA-256 of a file, and what `read` returns of its picture, or why it cannot be read.

    A file that cannot be read, or is too large, has no SHA-256.
    """
    digest = None
    try:
        with Path(path).open("rb") as file:
            check_size(file)
            content = file.read()
        digest = hashlib.sha256(content).hexdigest()
        return digest, read(io.BytesIO(content))
    except NoMemoryError as error:
        raise UserError(f"{path}: {error}; {ADVICE}") from None
    except PictureError as error:
        return digest, str(error)
    except OSError as error:
        return digest, str(error.strerror)


@contextmanager
def _readers(count: int) -> Iterator[Callable[..., Iterable]]:
    """Yield a `map` over processes, or over this one if there is little to do."""
    cores = usable_cores()
    if count <= FEW or cores == 1:
        yield map
        return
    with ProcessPoolExecutor(cores, initializer=_start_reader) as pool:
        try:
            yield partial(pool.map, chunksize=CHUNK)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for reader in active_children():
                reader.terminate()
            raise


def _start_reader() -> None:
    """Leave Ctrl-C to the parent, and end with it or at its SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # else an exception would be returned as a result
    end_with_parent()
