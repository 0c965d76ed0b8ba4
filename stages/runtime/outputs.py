"""How files are written: whole, or not at all."""

import csv
import errno
import glob
import json
import math
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from stages.runtime.errors import UserError


class Outputs:
    """Files that are written under temporary names; `all_or_none` gives them their own names."""

    def __init__(self) -> None:
        self._temporary: dict[Path, Path] = {}
        self._afterwards: list[Callable[[], None]] = []

    @contextmanager
    def file(self, path: Path) -> Iterator[Path]:
        """Yield a temporary path in the folder of `path` for the block to write.

        It removes the temporary files of killed runs: the runner lets one process at a time run a
        stage.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._temporary[path] = temporary
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                left.unlink()
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # a crash leaves the earlier file or this one
        except OSError as error:  # an error of a full disk names no file
            if error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error

    def write_bytes(self, path: Path, content: bytes) -> None:
        with self.file(path) as temporary:
            temporary.write_bytes(content)

    def write_json(self, path: Path, values: object) -> None:
        """Write indented JSON that ends in a newline; ValueError for NaN and infinities."""
        self.write_bytes(path, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())

    def write_csv(self, path: Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
        """Write a header and rows, in UTF-8 whatever the locale; None is an empty cell."""
        with (
            self.file(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)

    def afterwards(self, function: Callable[[], None]) -> None:
        """Have a function called once all files have their names."""
        self._afterwards.append(function)

    def publish(self) -> None:
        """Give all files their names.

        Raises:
            OSError: a folder has one of the names, so no file has got its own; or the system refuses.
        """
        for path in self._temporary:
            if path.is_dir():
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        with _uninterrupted():
            for path, temporary in self._temporary.items():
                with _naming(path):
                    temporary.replace(path)
        for function in self._afterwards:
            function()

    def discard(self) -> None:
        """Remove what has no name yet."""
        for temporary in self._temporary.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals that end the process take effect after the block.

    Their handlers are replaced, since a signal mask holds for one thread only: the system would hand
    the signal to another one, and Python call its handler in this one.
    """
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for caught in received:
            signal.raise_signal(caught)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder, outside the workspace, that is removed at the end of the block.

    Raises:
        UserError: there is no place for it.
        OSError: the disk is full, in the block, too; names the place, as no file of the folder stays.
    """
    try:
        place = tempfile.gettempdir()
    except FileNotFoundError as error:  # names no file, but lists all places that were tried
        raise UserError(
            f"TMPDIR: {error.strerror}; make room there, or set TMPDIR to a folder that can be written"
        ) from None
    with _naming(place), tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def scratch_array(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """Return uint8 of a shape, mapped into a file in `folder`, since it may not fit into memory.

    The file has no name, so it never stays. All of its space is taken at once: on a full disk, writing
    to mapped memory would end the process without a word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        size = math.prod(shape)
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "w+", shape=shape) if size else np.zeros(shape, np.uint8)


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Have an error of the system name `path`: that of a full disk names none, others a random name."""
    try:
        yield
    except OSError as error:
        named = error.filename and not re.match(r"tmp|\..+\.tmp$", Path(error.filename).name)
        if error.errno is None or named:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def all_or_none() -> Iterator[Outputs]:
    """Yield `Outputs`; its files get their names together when the block ends without an error.

    If the block raises, nothing has changed.
    """
    outputs = Outputs()
    try:
        yield outputs
        outputs.publish()
    finally:
        outputs.discard()
