"""How a command tells its user what went wrong: one line on stderr, no traceback."""

import gc
import json
import os
import re
import sys
from collections.abc import Callable

# A variable that names a file. A process that starts others sets it: they leave their lines there, and
# it tells one of them.
COLLECTED = "STAGES_ERRORS"


def printable(text: object) -> str:
    """Return a path or another text as one line can show it: line breaks and broken letters escaped."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def without_secrets(text: str) -> str:
    """Return a text without the names, passwords and queries of the URLs in it."""
    # From the beginning of a word only: a search at each of its letters would be quadratic.
    return re.sub(
        r"(?<![A-Za-z0-9+.-])([A-Za-z0-9+.-]+:/+)(\S+)", lambda url: _bare(*url.groups()), text
    )


def _bare(scheme: str, rest: str) -> str:
    place, *query = re.split("[?#]", rest, maxsplit=1)
    if "@" in "".join(query):  # either of the two may be the password's
        return f"{scheme}…"
    return scheme + place.rpartition("@")[2] + "?…" * len(query)


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line: the key or file, the value, what is allowed, what to do. What it names
    may hold line breaks: they are escaped.
    """

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(printable(message))


def run(main: Callable[[], None]) -> None:
    """Run a command's `main`; a `UserError` becomes its one line and exit code.

    An error of the operating system that names a file (disk full, not readable) is told the same
    way. Anything else is a fault of ours and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        _tell(str(error), error.exit_code)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        _tell(printable(f"{error.filename}: {error.strerror}"), 1)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # Else Python would look for cycles among all of torch's objects as it ends: half a second.
        gc.freeze()


def collected() -> list[UserError]:
    """Return what other processes have left to be told."""
    try:
        with open(os.environ[COLLECTED]) as file:  # noqa: PTH123
            lines = [json.loads(line) for line in file]
    except FileNotFoundError:
        return []
    errors = []
    for code, message in lines:
        errors.append(UserError(message))
        errors[-1].exit_code = code
    return errors


def _tell(message: str, exit_code: int) -> None:
    if COLLECTED in os.environ:
        with open(os.environ[COLLECTED], "a") as file:  # noqa: PTH123  pathlib takes its time to load
            file.write(json.dumps([exit_code, message]) + "\n")
    else:
        print(f"error: {message}", file=sys.stderr)
