"""What a stage depends on: the parameters and the digests of its files, at the moment it starts."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pathspec import GitIgnoreSpec

from stages.runtime.config import PARAMS, lookup, parse_yaml, read_yaml
from stages.runtime.errors import UserError

PIPELINE = Path("dvc.yaml")
IGNORE = Path(".dvcignore")


class Inputs:
    """A stage's parameters and the digests of its dependencies, read when the object is made.

    `params` is the content of params.yaml, `fingerprint` everything that the result depends on: the
    SHA-256 of each file by its path, and each tracked parameter by its name.
    """

    def __init__(self, stage: str):
        """Read the stage's definition in dvc.yaml, and take the digests.

        Raises:
            UserError: dvc.yaml or params.yaml is missing or not YAML, or has no such stage.
        """
        self._stage = stage
        definition = lookup(read_yaml(PIPELINE), f"stages.{stage}")
        if not isinstance(definition, dict):
            raise UserError(f"{PIPELINE}: stages.{stage}: no such stage")
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}  # of each path: status and digest
        self.params = read_yaml(PARAMS)
        self._deps = [Path(fill_in(dep, self.params)) for dep in definition.get("deps", [])]
        self._keys = [fill_in(key, self.params) for key in definition.get("params", [])]
        self.fingerprint = self._digests(self.params)

    def check(self, quick: bool = False) -> None:
        """Compare all inputs with those at the start.

        A quick check trusts the digest of a file whose inode, size and times are the same.

        Raises:
            UserError: one has changed; the line names it.
        """
        if not quick:
            self._known.clear()
        current = self._current()
        for name in sorted(self.fingerprint.keys() | current.keys()):
            old, new = self.fingerprint.get(name, "nothing"), current.get(name, "nothing")
            if old != new:
                change = f" from {old} to {new}" if name.startswith(f"{PARAMS}: ") else ""
                raise UserError(
                    f"{name} changed{change} while {self._stage} was running, so nothing was "
                    "recorded; run `dvc repro` again. DVC removed the earlier outputs when the stage "
                    "started: to get them back, undo the change first, and `dvc repro` takes them "
                    "from its cache"
                )

    def _current(self) -> dict[str, str]:
        try:
            return self._digests(parse_yaml(PARAMS, PARAMS.read_bytes()))
        except (UserError, FileNotFoundError):  # it was whole before
            return self._digests({}) | {str(PARAMS): "broken"}

    def _digests(self, params: object) -> dict[str, str]:
        tracked = {key: lookup(params, key) for key in self._keys}
        digests, rules = dict(leaves(f"{PARAMS}: ", tracked)), ignored()
        for dep in self._deps:
            for path in _files(dep):
                # An editor's temporary file may be gone before it is opened.
                if not rules.match_file(path):
                    with suppress(FileNotFoundError):
                        digests[path] = self._digest(path)
        return digests

    def _digest(self, path: str) -> str:
        with open(path, "rb") as file:  # noqa: PTH123
            found = os.fstat(file.fileno())
            status = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            known, digest = self._known.get(path, ((), ""))
            if known != status:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                self._known[path] = status, digest
        return digest


def _files(dep: Path) -> Iterator[str]:
    """Yield a file, or the files in a folder; one by one, since there may be hundreds of thousands."""
    if dep.is_file():
        yield str(dep)
    for folder, _, names in os.walk(dep):
        yield from (path for name in names if os.path.isfile(path := f"{folder}/{name}"))  # noqa: PTH113


def ignored() -> GitIgnoreSpec:
    """Return the rules of .dvcignore: DVC does not see files that match them."""
    return GitIgnoreSpec.from_lines(
        IGNORE.read_text(encoding="utf-8").splitlines() if IGNORE.exists() else []
    )


def fill_in(text: str, params: object) -> str:
    """Replace each ${key} by its value in params.yaml, as DVC does.

    Raises:
        UserError: there is no such key.
    """
    for key in re.findall(r"\$\{([^}]*)\}", text):
        value = lookup(params, key)
        if value is None:
            raise UserError(f"{PARAMS}: {key}: missing; add it")
        text = text.replace(f"${{{key}}}", str(value))
    return text


def leaves(prefix: str, values: object) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each parameter below `values`, as text."""
    if not isinstance(values, dict):
        yield prefix, repr(values)
        return
    for key, value in values.items():
        separator = "" if prefix.endswith(" ") else "."
        yield from leaves(f"{prefix}{separator}{key}", value)
