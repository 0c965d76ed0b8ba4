"""Pictures are read in processes of their own, which can be ended.

What a thread does cannot be stopped, and may keep all others waiting for Python's lock.
"""

import signal
from io import BytesIO
from pathlib import Path

import anyio
import numpy as np

from predict.demo import limits
from stages.common.params import Layout
from stages.datasets.pictures import PictureError, read_picture

EXAMPLE = Path(__file__).parents[1] / "examples/three.png"
limiter = anyio.CapacityLimiter(limits.PROCESSES)


class BusyError(Exception):
    """Other pictures are still being read."""


async def start() -> None:
    """Read a picture, for the first visitor not to wait until a process has started."""
    await read(EXAMPLE.read_bytes(), "mnist")


async def read(picture: bytes | bytearray, layout: Layout) -> np.ndarray:
    """Return a picture laid out, uint8 [28, 28], as `read_picture` does.

    Raises:
        PictureError: it cannot be read, or not in time.
        BusyError: its turn did not come.
    """
    try:
        with anyio.fail_after(2 * limits.SECONDS):
            return await anyio.to_process.run_sync(
                _read, picture, layout, limits.SECONDS, cancellable=True, limiter=limiter
            )
    except TimeoutError:
        raise BusyError from None
    except anyio.BrokenWorkerProcess:
        raise PictureError(
            f"takes longer than {limits.SECONDS} seconds, or more memory than there is; "
            "scale it down"
        ) from None


def _read(picture: bytes | bytearray, layout: Layout, seconds: int) -> np.ndarray:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the server
    signal.alarm(seconds)  # ends this process, whatever it does, and even if the server is gone
    try:
        return read_picture(BytesIO(picture), layout)
    finally:
        signal.alarm(0)
