"""The demo with another time limit, and pictures that it cannot read.

python -m tests.predict.small_demo SECONDS …

The processes that read pictures load this file, too.
"""

import os
import re
import signal
import sys
from io import BytesIO

from predict.demo import limits, reading

read_picture = reading.read_picture


def read(file: BytesIO, layout: str):
    match file.getvalue():
        case b"endless":
            re.fullmatch("(a*)*b", "a" * 60)  # holds Python's lock, and hears no signal
        case b"crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"fault":
            raise ZeroDivisionError
    return read_picture(file, layout)


reading.read_picture = read

if __name__ == "__main__":
    from predict.demo.server import main
    from stages.common import errors

    limits.SECONDS = int(sys.argv.pop(1))
    reading.limiter.total_tokens = 2
    errors.run(main)
