"""How files are written: whole, or not at all."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Outputs:
    """Files that are written under temporary names; `whole_files` gives them their own names."""

    def __init__(self) -> None:
        self._temporary: dict[Path, Path] = {}
        self._afterwards: list[Callable[[], None]] = []

    @contextmanager
    def file(self, path: Path) -> Iterator[Path]:
        """Yield a temporary path beside `path` for the block to write.

        Its name holds the process id: a process that outlives a killed `dvc repro` must not write
        into its successor's file.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._temporary[path] = temporary
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # a crash leaves the earlier file or this one
        except OSError as error:  # a full disk names no file by itself
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
        """Give all files their names."""
        for path, temporary in self._temporary.items():
            temporary.replace(path)
        for function in self._afterwards:
            function()

    def discard(self) -> None:
        """Remove what has no name yet."""
        for temporary in self._temporary.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_files() -> Iterator[Outputs]:
    """Yield `Outputs`; its files get their names together when the block ends without an error.

    If the block raises, nothing has changed.
    """
    outputs = Outputs()
    try:
        yield outputs
        outputs.publish()
    finally:
        outputs.discard()
