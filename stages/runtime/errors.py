"""How a command reports errors: each is one line on stderr, without a traceback."""

import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable

from stages.runtime.processes import is_child

ERROR_FILE = (
    "TORCHELASTIC_ERROR_FILE"  # set by torchrun, which collects its processes' errors there
)

MAX_FAULTS = 20  # lines of one error


JOINERS = "\u200c\u200d"  # between letters, as in words of Persian and Hindi


def printable(text: object) -> str:
    """Return a path or another text as one line: line breaks and broken letters escaped."""
    return "".join(
        letter if letter.isprintable() or letter in JOINERS else ascii(letter)[1:-1]
        for letter in str(text)
    )


def without_secrets(text: str) -> str:
    """Return a text without the user names, passwords and queries of its URLs."""
    return re.sub(r"(\b[\w+.-]+:/+|\B//+)(\S+)", lambda url: url[1] + _bare(url[2]), text)


def _bare(url: str) -> str:
    place, *query = re.split("[?#]", url, maxsplit=1)
    if "@" in "".join(query):  # "?" or "#" may belong to a password
        return "…"
    return place.rpartition("@")[2] + "?…" * len(query)


class UserError(Exception):
    """A mistake that the user can correct, or several of one kind.

    Each of `faults` is one line: the key or file, the value, what is allowed, what to do. Line breaks
    within names are escaped. The message has the first 20, and counts the others.
    """

    exit_code = 1

    def __init__(self, *faults: str):
        super().__init__(*map(printable, faults))

    def __str__(self) -> str:
        more = len(self.args) - MAX_FAULTS
        last = [f"and {more:,} more like these"] if more > 0 else []
        return "\n".join([*self.args[:MAX_FAULTS], *last])


def refuse(faults: Iterable[str]) -> None:
    """Raise a `UserError` of all faults, if there are any."""
    if found := list(faults):
        raise UserError(*found)


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`; report a `UserError`, one line for each fault, and exit with its code.

    An error of the operating system that names a file (disk full, not readable) is reported the same
    way. Any other exception is a fault of this project and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        _exit(error)
    except OSError as error:
        if error.filename is None:
            raise
        _exit(UserError(f"{error.filename}: {error.strerror}"))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # Otherwise Python looks for cycles among all of torch's objects as it ends: half a second.
        gc.freeze()


def _exit(error: UserError) -> None:
    if is_child() and ERROR_FILE in os.environ:  # torchrun reports the first error only
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        # torchrun ends the other processes after the first failure; it cannot read half a report.
        previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        get_error_handler().record_exception(error)
        signal.signal(signal.SIGTERM, previous)
    else:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
    sys.exit(error.exit_code)
