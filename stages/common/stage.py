"""One run of a stage: what it depends on, whether that is still the same, what it publishes."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec

from stages.common.errors import UserError
from stages.common.files import Outputs, whole_files
from stages.common.params import PARAMS, read_yaml

PIPELINE = Path("dvc.yaml")
IGNORE = Path(".dvcignore")
SECOND_LOOK = 0.5  # seconds: an editor may be half-way through writing a file


class Stage(NamedTuple):
    """What a stage's `main` is given."""

    outputs: Outputs
    facts: dict[str, str]  # all that the result depends on, by name: digests and parameters
    check_inputs: Callable[[], None]  # raises UserError where an input was changed meanwhile


def run_main(main: Callable[[Stage], None], inputs: "Inputs") -> None:
    """Run a stage's `main`; publish its outputs if the inputs are still the same."""
    with whole_files() as outputs:
        main(Stage(outputs, inputs.facts, inputs.check))
        inputs.check()


class Inputs:
    """The digests of a stage's dependencies and parameters, taken when the object is made."""

    def __init__(self, stage: str):
        """Read what dvc.yaml says of `stage`, and take the digests.

        Raises:
            UserError: dvc.yaml or params.yaml is missing or not YAML, or has no such stage.
        """
        self._stage = stage
        try:
            definition = read_yaml(PIPELINE)["stages"][stage]
        except (KeyError, TypeError):
            raise UserError(f"{PIPELINE}: stages.{stage}: no such stage") from None
        params = read_yaml(PARAMS)
        self._deps = [Path(_fill_in(dep, params)) for dep in definition.get("deps", [])]
        self._params = [_fill_in(key, params) for key in definition.get("params", [])]
        self.facts = self._digests()

    def check(self) -> None:
        """Refuse to go on if anything has changed since this object was made.

        Raises:
            UserError: something has; the line names it.
        """
        if self._digests() == self.facts:
            return
        time.sleep(SECOND_LOOK)
        after = self._digests()
        for name in sorted(self.facts.keys() | after.keys()):
            old, new = self.facts.get(name, "nothing"), after.get(name, "nothing")
            if old != new:
                change = f" from {old} to {new}" if name.startswith(f"{PARAMS}: ") else ""
                raise UserError(
                    f"{name} changed{change} while {self._stage} was running, so nothing was "
                    "recorded; run `dvc repro` again. DVC took the earlier outputs away when the "
                    "stage started: to get them back, undo the change first, and `dvc repro` "
                    "takes them from its cache"
                )

    def _digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file, by its path, and each parameter, by its name."""
        digests, rules = self._parameters(), ignored()
        for dep in self._deps:
            for path in _files(dep):
                # An editor's temporary file may be gone before it is opened.
                if not rules.match_file(path):
                    with suppress(FileNotFoundError), Path(path).open("rb") as file:
                        digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return digests

    def _parameters(self) -> dict[str, str]:
        try:
            params = read_yaml(PARAMS)
        except UserError:  # it was whole before
            return {str(PARAMS): "broken"}
        tracked = {key: _lookup(params, key) for key in self._params}
        return dict(_leaves(f"{PARAMS}: ", tracked))


def _files(dep: Path) -> Iterator[str]:
    """Yield a file, or the files in a folder; one by one, since there may be hundreds of thousands."""
    if dep.is_file():
        yield str(dep)
    for folder, _, names in os.walk(dep):
        yield from (path for name in names if os.path.isfile(path := f"{folder}/{name}"))  # noqa: PTH113


def ignored() -> GitIgnoreSpec:
    """Return the rules of .dvcignore: what matches them, DVC does not see."""
    return GitIgnoreSpec.from_lines(IGNORE.read_text().splitlines() if IGNORE.exists() else [])


def _fill_in(text: object, params: object) -> str:
    """Replace each ${key} by its value in params.yaml, as DVC does.

    Raises:
        UserError: there is no such key, or `text` is another of DVC's forms than a name.
    """
    if not isinstance(text, str):
        raise UserError(f"{PIPELINE}: {text}: the stages' frame knows names in {PARAMS} only")
    for key in re.findall(r"\$\{([^}]*)\}", text):
        value = _lookup(params, key)
        if value is None:
            raise UserError(f"{PIPELINE}: ${{{key}}}: {PARAMS} has no such key; add it")
        text = text.replace(f"${{{key}}}", str(value))
    return text


def _lookup(params: object, key: str) -> object:
    """Return params["train"]["recipe"] for "train.recipe"; None where there is none."""
    for part in key.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _leaves(prefix: str, values: object) -> Iterator[tuple[str, str]]:
    if not isinstance(values, dict):
        yield prefix, repr(values)
        return
    for key, value in values.items():
        separator = "" if prefix.endswith(" ") else "."
        yield from _leaves(f"{prefix}{separator}{key}", value)
