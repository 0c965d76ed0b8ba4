"""What a stage asks of the system about processes: its cores, its parent, others like itself."""

import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path

PARENT = "STAGES_PARENT"  # a variable: the number of the process that starts others
WORKER = "--worker"  # an argument of a stage: take part only, and write nothing


def usable_cores() -> int:
    """Return how many of the machine's cores this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def is_child() -> bool:
    """Say whether torchrun, or the train stage as torchrun does, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ  # RANK is set by Kubeflow, too


def end_with_parent() -> None:
    """End this process when the one that has started it has ended, however it did.

    DVC starts a stage by a shell, which may be left between them and would outlive it: then DVC is
    watched, too.
    """
    parent = int(os.environ.get(PARENT, os.getppid()))
    above = _parent_of(parent) if _is_shell(parent) else 0

    def watch() -> None:
        while os.getppid() == parent and (not above or _parent_of(parent) == above):
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)  # so that temporary files are removed
        time.sleep(5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_shell(process: int) -> bool:
    """Say whether a process is `sh -c …`; where /proc is missing, no."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[1] == b"-c"
    except (OSError, IndexError):
        return False


def _parent_of(process: int) -> int:
    """Return the number of the parent of a process; 0 if it has ended."""
    try:  # `man 5 proc`: "4711 (name) state parent …"
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


class Alone:
    """Lets one stage at a time run in a folder, in a process or in a group of them.

    A stage can outlive a `dvc repro` that was killed, and would publish its outputs into the next run.
    The lock is on the folder of the stages: it writes nothing, ends with its holder, and Git does not
    replace the folder as it does files.
    """

    _file: int | None = None

    @classmethod
    def hold(cls) -> None:
        """Wait until no stage runs in another process, and keep others waiting from now on."""
        if WORKER in sys.argv:
            return
        cls._file = os.open("stages", os.O_RDONLY | os.O_CLOEXEC)
        kind = fcntl.LOCK_SH if is_child() else fcntl.LOCK_EX
        try:
            fcntl.flock(cls._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            print("note: a stage still runs in another process; waiting for its end", flush=True)
            fcntl.flock(cls._file, kind)
        except OSError:  # a file system without locks
            pass

    @classmethod
    def share(cls) -> None:
        """Let the processes that this one starts hold it, too."""
        if cls._file is not None:
            fcntl.flock(cls._file, fcntl.LOCK_SH)
