"""What a stage depends on: its parameters, and its files by their digests.

DVC computes the checksums of a stage's code, parameters and data after the stage ran, and records the
result under them. An edit during the run would be recorded as if it had been used, and the run-cache
would hand the wrong result to everybody. So `Inputs` digests everything when the stage starts; what the
stage uses has been compared with these digests, by the very bytes that are used; and `check` compares
the files once more at the end.
"""

import hashlib
import mmap
import os
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

from pathspec import GitIgnoreSpec

import stages
from stages.runtime.config import PARAMS, Schema, lookup, parse_yaml, read_yaml, section
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
            UserError: dvc.yaml or params.yaml is missing or not YAML, or has no such stage; or a folder
                of outputs is a link that leads out of the project.
        """
        self._stage = stage
        definition = lookup(read_yaml(PIPELINE), f"stages.{stage}")
        if not isinstance(definition, dict):
            raise UserError(f"{PIPELINE}: stages.{stage}: no such stage")
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}  # of each path: status and digest
        self._mapped: set[str] = set()
        self.params = read_yaml(PARAMS)
        self._deps = [Path(fill_in(dep, self.params)) for dep in definition.get("deps", [])]
        for kind in ("outs", "metrics", "plots"):
            for out in definition.get(kind, []):
                _check_place(Path(out if isinstance(out, str) else next(iter(out))).parent)
        self._keys = [fill_in(key, self.params) for key in definition.get("params", [])]
        self.fingerprint = self._digests(self.params)

    def section(self, key: str, schema: type[Schema]) -> Schema:
        """Return a section of params.yaml, such as "prepare" or "recipes.fast".

        Raises:
            UserError: it is missing, or a value is not allowed.
        """
        return section(self.params, key, schema)

    def read(self, path: Path) -> bytes:
        """Return the content of a dependency.

        Raises:
            UserError: it is not the content that was digested.
            OSError: the file cannot be read.
        """
        content = path.read_bytes()
        self.compare(str(path), hashlib.sha256(content).hexdigest())
        return content

    def map(self, path: Path) -> mmap.mmap:
        """Return the content of a dependency that may not fit into memory, mapped.

        Later writes to the file would show in the map, so `check` refuses them from now on.

        Raises:
            UserError: it is not the content that was digested.
            OSError: the file cannot be read.
            ValueError: it is empty.
        """
        content = map_file(path)
        self.compare(str(path), hashlib.sha256(content).hexdigest())
        self._mapped.add(str(path))
        return content

    def check(self, quick: bool = False) -> None:
        """Compare all inputs with those at the start.

        A quick check trusts the digest of a file whose inode, size and times are the same.

        Raises:
            UserError: one has changed; the line names it.
        """
        if not quick:
            self._known = {path: self._known[path] for path in self._mapped}
        current = self._current()
        for name in sorted(self.fingerprint.keys() | current.keys()):
            self.compare(name, current.get(name, "nothing"))

    def check_code(self) -> None:
        """Compare the code that was imported with that at the start.

        Raises:
            UserError: other code was imported, or code that is no dependency.
        """
        for path, digest in stages.SOURCES.items():
            name = os.path.relpath(path)
            if name not in self.fingerprint:
                raise UserError(
                    f"{name} is used, but is no dependency of {self._stage}: {PIPELINE} does not list "
                    f"its folder, or {IGNORE} hides it; correct that file"
                )
            self.compare(name, digest)
        for path in _strangers():
            raise UserError(
                f"{os.path.relpath(path)} is used, but is no dependency of {self._stage}: DVC does not "
                "track it; move it into a folder of stages/ that the stage depends on"
            )

    def compare(self, name: str, digest: str) -> None:
        """Refuse an input, by its name in `fingerprint`, that has another digest than at the start.

        Raises:
            UserError: it has.
        """
        old = self.fingerprint.get(name, "nothing")
        if old != digest:
            change = f" from {old} to {digest}" if name.startswith(f"{PARAMS}: ") else ""
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
        digests, is_ignored = dict(leaves(f"{PARAMS}: ", tracked)), ignored()
        for dep in self._deps:
            for folder in dep.parents[:-1]:
                refuse_rules(folder)
            for path in _files(dep):
                # An editor's temporary file may be gone before it is opened.
                if not is_ignored(path):
                    with suppress(FileNotFoundError):
                        digests[path] = self._digest(path)
        return digests

    def _digest(self, path: str) -> str:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            found = os.fstat(file.fileno())
            status = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            known, digest = self._known.get(path, ((), ""))
            if path in self._mapped and known[0] == status[0] and known[:3] != status[:3]:
                return "written"  # to what is mapped, perhaps and back again
            if known != status:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                self._known[path] = status, digest
        return digest


def _check_place(folder: Path) -> None:
    """Refuse a folder of outputs that is a link to another disk: DVC would fail after the training."""
    place = folder.resolve()
    if not place.is_relative_to(Path.cwd()):
        raise UserError(
            f"{folder}: leads to {place}, but DVC's outputs must be inside of the project; replace the "
            "link by a folder, and keep large files there by `dvc cache dir --local <folder>`"
        )


def _strangers() -> Iterator[str]:
    """Yield the imported files in the project that are neither in stages/ nor in an environment."""
    project = f"{Path.cwd()}/"
    installed = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib")]
    environment = tuple(f"{folder}/" for folder in installed)
    for module in list(sys.modules.values()):
        path = getattr(module, "__dict__", {}).get("__file__") or ""  # torch.ops has "_ops.py"
        if path.startswith(project) and not path.startswith((*environment, *stages.SOURCES)):
            yield path


def map_file(path: Path) -> mmap.mmap:
    """Return the content of a file, mapped; OSError: it cannot be read; ValueError: it is empty."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch warns of ACCESS_READ


def _files(dep: Path) -> Iterator[str]:
    """Yield a file, or the files in a folder; one by one, since there may be hundreds of thousands."""
    if dep.is_file():
        yield str(dep)
    for folder, _, names in os.walk(dep):
        refuse_rules(Path(folder))
        yield from (path for name in names if os.path.isfile(path := f"{folder}/{name}"))  # noqa: PTH113


def ignored() -> Callable[[str], bool]:
    """Return a function that says of a path whether .dvcignore hides it from DVC."""
    return _matcher(IGNORE.read_text(encoding="utf-8") if IGNORE.exists() else "")


@lru_cache(maxsize=1)
def _matcher(rules: str) -> Callable[[str], bool]:
    # A stage asks three times for each picture, and matching takes as long as opening a file.
    return cache(GitIgnoreSpec.from_lines(rules.splitlines()).match_file)


def refuse_rules(folder: Path) -> None:
    """Refuse a .dvcignore in a folder of the project: it would hide files from DVC, but not from us.

    Raises:
        UserError: there is one.
    """
    if (path := folder / IGNORE).exists():
        raise UserError(
            f"{path}: only the .dvcignore beside dvc.yaml counts; move these lines there"
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
