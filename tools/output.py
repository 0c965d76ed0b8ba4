"""What the tools' commands have in common."""

import os
import sys
from collections.abc import Callable


def run_tool(main: Callable[[], None]) -> None:
    """Call a tool's `main`; end quietly at Ctrl-C, or if the reader of its output ends first."""
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again
        sys.exit(1)


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks, which some of DVC's have."""
    return " ".join(str(error).split())
