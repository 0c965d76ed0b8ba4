"""Measures a command: its seconds, its memory, and the other processes on the machine."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

QUIET = 0.05  # share of the cores that other processes may use


class Run(NamedTuple):
    """The measurements of one command."""

    seconds: float
    cpu_seconds: float  # of the command and its ended children
    others: float  # the share of the cores that other processes used
    peak_mib: float
    output: str


class Meter:
    """Measures time from its creation on."""

    def __init__(self) -> None:
        self._started = self._now()

    def read(self) -> tuple[float, float, float]:
        """Return wall seconds, CPU seconds of ended children, and others' share of the cores."""
        wall, own, children, busy = (
            now - then for now, then in zip(self._now(), self._started, strict=True)
        )
        others = (busy - own - children) / (wall * psutil.cpu_count())
        return wall, children, max(0.0, others)  # Linux counts in hundredths of a second

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        """Return wall seconds, and CPU seconds of this process, its ended children, all processes."""
        user, system, *children, wall = os.times()
        every = psutil.cpu_times()._asdict()
        idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's are in user and nice, too
        busy = sum(seconds for kind, seconds in every.items() if kind not in idle)
        return wall, user + system, sum(children), busy


def measured(folder: Path, *command: str) -> Run:
    """Run a command of the environment in a folder.

    Memory is the process's own (RssAnon): the pages of a mapped file are the system's cache, as those
    of a file that is read.

    Raises:
        SystemExit: it failed, and has printed the reason.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    meter, peak = Meter(), 0
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=log) as process,
    ):
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            match = re.search(r"^RssAnon:\s+(\d+) kB", status.read_text(), re.MULTILINE)
            peak = max(peak, int(match[1]) if match else 0)
            time.sleep(0.01)
        seconds, cpu_seconds, others = meter.read()
        log.seek(0)
        output = log.read()
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} in {folder} ended with {process.returncode}")
    return Run(seconds, cpu_seconds, others, peak / 1024, output)


def note(others: float, what: str) -> None:
    """Report on stderr if other processes used the cores while something was measured."""
    if others > QUIET:
        print(
            f"note: other processes used {others:.0%} of the cores; repeat {what}", file=sys.stderr
        )


def star(run: dict) -> str:
    """Return a star for a table if other processes used the cores during a run."""
    return " \\*" if run["others"] > QUIET else ""
