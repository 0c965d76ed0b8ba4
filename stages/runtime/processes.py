"""What a stage asks of the system about processes: its cores, its parent, a lock."""

import fcntl
import os
import signal
import sys
import threading
import time

DVC_STAGE = "DVC_STAGE"  # a variable that DVC sets for its stages
LAUNCHED = "STAGES_LAUNCHED"  # a variable of the processes that the train stage has started
WORKER = "--worker"  # an argument of the train stage: take part only, and write nothing


def usable_cores() -> int:
    """Return the number of the machine's cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def is_child() -> bool:
    """Return whether torchrun, or the train stage as torchrun does, has started this process.

    A stage that DVC has started is none, although a job of torchrun that calls `dvc repro` hands its
    own variables down. Kubeflow sets RANK, too.
    """
    if LAUNCHED not in os.environ and DVC_STAGE in os.environ:
        return False
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_parent() -> None:
    """End this process when the process that started it has ended, however it did."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)  # so that temporary files are removed
        time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Lock:
    """Lets one stage at a time run in a folder, in one process or in a group of them.

    A stage can outlive a `dvc repro` that was killed, and would publish its outputs into the next run.
    The lock is on the folder of the stages: it writes nothing, ends with its holder, and Git does not
    replace the folder as it does files.
    """

    _file: int | None = None

    @classmethod
    def acquire(cls) -> None:
        """Wait until no stage runs in another process, and make others wait from now on."""
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
        """Let the processes that this process starts acquire the lock, too."""
        if cls._file is not None:
            fcntl.flock(cls._file, fcntl.LOCK_SH)
