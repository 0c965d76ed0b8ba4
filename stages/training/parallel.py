"""Who computes what: the threads of a process, and the processes that torchrun has started.

A batch is cut into parts whoever computes them (`loop.py`). Here the work is divided, and what it gives
is gathered. PyTorch's own threads wait for one another in each of hundreds of small
operations of a step; with another program on one of two cores, a training took ten times as long.
These threads, and the processes, wait once a step.
"""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from stages.common.errors import UserError
from stages.common.params import PARAMS
from stages.common.processes import is_child
from stages.training import launch
from stages.training.addresses import choose_interface
from stages.training.launch import LostError

SILENCE = timedelta(minutes=2)  # after which another process is taken for lost
SIGN_OF_LIFE = 30  # seconds after which the idle ones hear of the main one again


class Group:
    """The processes that share the work, and how many threads each has; by default this one alone.

    `main` is the one that reads and writes files. An `idle` one has no part to compute.
    """

    def __init__(
        self,
        threads: int = 1,
        processes: dist.ProcessGroup | None = None,
        main: int = 0,
        idle: bool = False,
    ) -> None:
        self._processes, self._main, self.idle = processes, main, idle
        together = processes is not None and not idle
        self.main = not idle and (processes is None or dist.get_rank() == main)
        self._size, self._rank = (processes.size(), processes.rank()) if together else (1, 0)
        self.quiet = None if self.main else True  # tqdm's `disable`; None: a bar on a terminal only
        self._threads = threads
        flush = partial(torch.set_flush_denormal, True)  # is set for each thread
        self._pool = ThreadPoolExecutor(max(1, threads - 1), initializer=flush)
        self._memory: dict[tuple[int, int], Tensor] = {}

    def gather(self, compute: Callable[[int, Tensor], None], count: int, like: Tensor) -> Tensor:
        """Have `compute(number, row)` fill a row for each number below `count`; return all rows.

        The rows have the length and device of `like`, float32 [width]. The result, [count, width], is
        the same in each process, and valid until the next call.
        """
        each = -(-count // self._size)  # the last processes may have fewer
        every = self._rows(each * self._size, like)
        first = self._rank * each
        mine = range(first, min(first + each, count))
        own = every[first : first + each]

        def work(numbers: range) -> None:
            for number in numbers:
                compute(number, own[number - first])

        share = -(-len(mine) // self._threads) or 1
        shares = [mine[start : start + share] for start in range(0, len(mine), share)]
        futures = [self._pool.submit(work, numbers) for numbers in shares[1:]]
        if shares:
            work(shares[0])
        for future in futures:
            future.result()
        if self._size > 1:
            with lost_processes():
                dist.all_gather_single(every, own.clone(), self._processes)
        return every[:count]

    def _rows(self, count: int, like: Tensor) -> Tensor:
        """Return memory that is kept: new memory for each step would be slower to write."""
        shape = (count, len(like))
        if shape not in self._memory:
            self._memory[shape] = like.new_zeros(shape)
        return self._memory[shape]

    def share(self, message: object) -> object:
        """Return what the main process gives, in each process."""
        messages = [message]
        if self._size > 1:
            with lost_processes():
                dist.broadcast_object_list(messages, self._main, self._processes)
        return messages[0]

    def agree(self) -> None:
        """Wait until all processes are here, so that none goes on where another has refused to."""
        if self._size > 1:
            with lost_processes():
                dist.barrier(self._processes)


@contextmanager
def join(facts: dict[str, str], parts: int, threads: int, device: torch.device) -> Iterator[Group]:
    """Yield the group of processes that train together, of which so many have a part to compute.

    They end together. `facts` are all that the result depends on, and must be the same everywhere.

    Raises:
        UserError: they are not, or not exactly one host runs the stage.
        LostError: another process has ended or does not answer.
    """
    if not is_child():
        yield Group(threads)
        return
    choose_interface(launch.place()["host"])
    with lost_processes():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=SILENCE
        )
    try:
        everyone: list = [None] * dist.get_world_size()
        with lost_processes():
            dist.all_gather_object(everyone, launch.place() | {"facts": facts})
        main = find_main(everyone)
        compare(everyone, main)
        others = [rank for rank in range(len(everyone)) if rank != main]
        ranks, idle = sorted([main, *others[: parts - 1]]), others[parts - 1 :]
        with lost_processes():
            processes = dist.new_group(ranks, SILENCE)
        if dist.get_rank() == main:
            hosts = len({place["host"] for place in everyone})
            print(describe(parts, len(everyone), hosts), flush=True)
        with signs_of_life(idle, main):
            yield Group(threads, processes, main, dist.get_rank() in idle)
    finally:
        dist.destroy_process_group()


@contextmanager
def signs_of_life(idle: list[int], main: int) -> Iterator[None]:
    """Have the idle processes wait for the main one, and hear meanwhile that it still works.

    Raises:
        LostError: they have not heard of it for too long.
    """
    with lost_processes():
        group = dist.new_group([main, *idle], SILENCE)
    if dist.get_rank() in idle:
        yield
        ended = torch.zeros(1)
        while not ended:
            with lost_processes():
                dist.broadcast(ended, main, group)
    elif idle and dist.get_rank() == main:
        done = threading.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # an idle one has ended: that is no reason to end
                while not (ended := done.wait(SIGN_OF_LIFE)):
                    dist.broadcast(torch.tensor([0.0]), main, group)
                dist.broadcast(torch.tensor([float(ended)]), main, group)

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        yield
        done.set()
        thread.join()
    else:
        yield


def describe(parts: int, processes: int, hosts: int) -> str:
    """Say how the work is divided."""
    among = f"{processes} process{'es' if processes > 1 else ''}"
    among += f" on {hosts} host{'s' if hosts > 1 else ''}"
    if parts < processes:
        return (
            f"Training on {parts} of {among}: the recipe's `shards` is {parts}, so {parts} of them "
            "have something to compute"
        )
    return f"Training on {among}, which share the {parts} parts of each batch"


def find_main(everyone: list[dict]) -> int:
    """Return the rank of the process that reads and writes files.

    It is the first on the host that runs the stage, or of those that torchrun itself has started.

    Raises:
        UserError: no host runs the stage, or several do.
    """
    first = [rank for rank, at in enumerate(everyone) if not at["worker"] and at["local_rank"] == 0]
    hosts = " and ".join(everyone[rank]["host"] for rank in first)
    if not first:
        raise UserError("every host runs `make worker`: run `dvc repro` on one of them")
    if len(first) > 1 and everyone[first[0]]["launched"]:
        raise UserError(f"{hosts} both run the stage: run `make worker` on all hosts but one")
    return first[0]


def compare(everyone: list[dict], main: int) -> None:
    """Refuse processes that would compute something else than the main one.

    Raises:
        UserError: one would; the line names what differs.
    """
    expected = everyone[main]["facts"]
    for at in everyone:
        names = [
            name
            for name in sorted(expected.keys() | at["facts"].keys(), key=_general_first)
            if expected.get(name) != at["facts"].get(name)
        ]
        if names:
            told = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise UserError(
                f"{everyone[main]['host']} and {at['host']} would not compute the same: they differ in "
                f"{told}; bring both to the same commit, parameters and data (`git status` and `dvc "
                "status` on each), then start both again"
            )


def _general_first(name: str) -> tuple[bool, str]:
    """Order names so that `train.recipe` is told, not all that another recipe has brought with it."""
    return not name.startswith(f"{PARAMS}: train."), name


@contextmanager
def lost_processes() -> Iterator[None]:
    """Turn what PyTorch says of a lost connection into one line.

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
            "message says why. `dvc repro` goes on from the last whole epoch"
        ) from None
