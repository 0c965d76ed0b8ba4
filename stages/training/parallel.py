"""Who computes which shard: the threads of a process, and the processes that torchrun has started.

PyTorch's own threads wait for one another in each of hundreds of small operations of a step; with
another program on one of two cores, a training took ten times as long. These threads, and the
processes, wait once a step.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from stages.runtime.config import PARAMS
from stages.runtime.errors import UserError
from stages.runtime.processes import LAUNCHED, WORKER, is_child
from stages.training import launch
from stages.training.launch import LostError

Message = TypeVar("Message")

SILENCE = timedelta(minutes=2)  # after which another process counts as lost


class Group:
    """The processes that share the work, and how many threads each has; by default this one alone."""

    def __init__(self, threads: int = 1, main_rank: int = 0) -> None:
        together = dist.is_initialized()
        self.size, self._rank = (dist.get_world_size(), dist.get_rank()) if together else (1, 0)
        self._main_rank, self._threads = main_rank, threads
        self.main = self._rank == main_rank  # whether this process reads and writes files
        self.quiet = None if self.main else True  # tqdm's `disable`; None: a bar on a terminal only
        flush = partial(torch.set_flush_denormal, True)  # is set for each thread
        self._pool = ThreadPoolExecutor(max(1, threads - 1), initializer=flush)
        self._memory: dict[tuple[int, int], Tensor] = {}

    def gather(self, compute: Callable[[int, Tensor], None], count: int, like: Tensor) -> Tensor:
        """Have `compute(number, row)` fill a row for each number below `count`; return all rows.

        The rows have the length and device of `like`, float32 [width]. The result, [count, width], is
        the same in each process, and valid until the next call.
        """
        each = -(-count // self.size)  # the last processes may have fewer, or none
        rows = self._rows(each * self.size, like)
        first = self._rank * each
        numbers = range(first, min(first + each, count))
        own = rows[first : first + each]

        def work(share: range) -> None:
            for number in share:
                compute(number, own[number - first])

        length = -(-len(numbers) // self._threads) or 1
        shares = [numbers[start : start + length] for start in range(0, len(numbers), length)]
        futures = [self._pool.submit(work, share) for share in shares[1:]]
        if shares:
            work(shares[0])
        for future in futures:
            future.result()
        if self.size > 1:
            with lost_processes():
                dist.all_gather_single(rows, own.clone())
        return rows[:count]

    def _rows(self, count: int, like: Tensor) -> Tensor:
        """Return memory that is kept: new memory for each step would be slower to write."""
        shape = (count, len(like))
        if shape not in self._memory:
            self._memory[shape] = like.new_zeros(shape)
        return self._memory[shape]

    def share(self, message: Message) -> Message:
        """Return the main process's message in each process."""
        messages = [message]
        if self.size > 1:
            with lost_processes():
                dist.broadcast_object_list(messages, self._main_rank)
        return messages[0]

    def agree(self) -> None:
        """Wait until all processes are here, so that none goes on where another has refused to."""
        if self.size > 1:
            with lost_processes():
                dist.barrier()


@contextmanager
def join(fingerprint: dict[str, str], threads: int, device: torch.device) -> Iterator[Group]:
    """Yield the group of processes that train together.

    `fingerprint` names everything that the result depends on, and must be the same everywhere.

    Raises:
        UserError: it is not, or not exactly one host runs the stage.
        LostError: another process has ended or does not answer.
    """
    if not is_child():
        yield Group(threads)
        return
    host = launch.own_address(os.environ["MASTER_ADDR"])
    if sys.platform == "linux":
        launch.choose_interface(host)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    place = {
        "host": host,
        "first": os.environ["LOCAL_RANK"] == "0" and WORKER not in sys.argv,
        "fingerprint": fingerprint,
    }
    # torchrun keeps the store of an earlier attempt, with the addresses of dead processes.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    with lost_processes():
        store, rank, size = next(dist.rendezvous("env://", timeout=SILENCE))
        store = dist.PrefixStore(attempt, store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=SILENCE)
    try:
        places: list = [None] * dist.get_world_size()
        with lost_processes():
            dist.all_gather_object(places, place)
        main_rank = find_main(places)
        compare(places, main_rank)
        group = Group(threads, main_rank)
        if group.main:
            print(f"Training on {len(places)} process{'es' * (len(places) > 1)}", flush=True)
        yield group
    finally:
        dist.destroy_process_group()


def find_main(places: list[dict]) -> int:
    """Return the rank of the process that reads and writes files: the first where the stage runs.

    Raises:
        UserError: no host runs the stage, or several do.
    """
    first = [rank for rank, place in enumerate(places) if place["first"]]
    if not first:
        raise UserError("every host runs `make worker`: run `dvc repro` on one of them")
    if len(first) > 1 and LAUNCHED in os.environ:  # torchrun by hand starts the same on each host
        hosts = " and ".join(places[rank]["host"] for rank in first)
        raise UserError(f"{hosts} both run the stage: run `make worker` on all hosts but one")
    return first[0]


def compare(places: list[dict], main_rank: int) -> None:
    """Refuse processes that would compute something else than the main one.

    Raises:
        UserError: one would; the line names what differs.
    """
    main = places[main_rank]
    for place in places:
        names = sorted(
            (
                name
                for name in main["fingerprint"].keys() | place["fingerprint"].keys()
                if main["fingerprint"].get(name) != place["fingerprint"].get(name)
            ),
            # `train.recipe` comes before all that another recipe brings with it
            key=lambda name: (not name.startswith(f"{PARAMS}: train."), name),
        )
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(
                f"{main['host']} and {place['host']} would not compute the same: they differ in "
                f"{', '.join(names[:3])}{more}; bring both to the same commit, parameters and data "
                "(`git status` and `dvc status` on each), then start both again"
            )


@contextmanager
def lost_processes() -> Iterator[None]:
    """Turn PyTorch's message about a lost connection into one line.

    Raises:
        LostError: another process has ended, or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        # "[…/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.9.0.2]:4242. This means …"
        reason = re.sub(r"^\[\S*\] ", "", str(error).partition("\n")[0]).partition(". ")[0]
        raise LostError(
            f"another process of the training has ended or does not answer ({reason}); its own "
            "message says why. `dvc repro` resumes after the last whole epoch"
        ) from None
