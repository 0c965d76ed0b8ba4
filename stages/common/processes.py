"""What a stage that works in several processes asks of the system."""

import os
import threading
import time

PARENT = "STAGES_PARENT"  # a variable: the number of the process that starts others


def usable_cores() -> int:
    """Return how many of the machine's cores this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def is_child() -> bool:
    """Say whether torchrun, or the train stage as torchrun does, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ  # RANK is set by Kubeflow, too


def end_with_parent() -> None:
    """End this process when the one that has started it has ended, however it did."""
    parent = int(os.environ.get(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
