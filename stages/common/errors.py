"""How a command tells its user what went wrong: one line on stderr, no traceback."""

import gc
import sys
from collections.abc import Callable


def printable(path: object) -> str:
    """Return a path as one line can show it: line breaks and broken letters escaped."""
    name = str(path)
    return name if name.isprintable() else ascii(name)[1:-1]


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line: the key or file, the value, what is allowed, what to do.
    """

    exit_code = 1


def run(main: Callable[[], None]) -> None:
    """Run a command's `main`; a `UserError` becomes its one line and exit code.

    An error of the operating system that names a file (disk full, not readable) is told the same
    way. Anything else is a fault of ours and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # Else Python would look for cycles among all of torch's objects as it ends: half a second.
        gc.freeze()
