"""What the tools' commands have in common."""

import os
import sys
from collections.abc import Callable


def run_tool(main: Callable[[], None]) -> None:
    """Call a tool's `main`; end quietly if the reader of its output ends first, as `head` does."""
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again
        sys.exit(1)
