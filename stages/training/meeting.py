"""How the hosts of a training meet: torch's own rendezvous, with servers that listen at one address.

torchrun's listen at all addresses of the host, and after a host has come or gone they hold on to the
server of the earlier round.
"""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import TypeVar

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousInfo
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousTimeout,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from stages.common.errors import UserError
from stages.training.addresses import own_address
from stages.training.launch import LostError

NAME = "at one address"
TIMEOUTS = {  # seconds, torchrun's own: how long hosts wait for one another, and so on
    "join_timeout": 600,
    "last_call_timeout": 30,
    "close_timeout": 30,
    "heartbeat_timeout": 5,
}
HOST = {"1": True, "true": True, "0": False, "false": False}
ANSWER = 30  # seconds after which a host that does not answer any more is given up
Answer = TypeVar("Answer")


class Rendezvous(DynamicRendezvousHandler):
    """Torch's, of version 2.13; `again` is called before each round but the first."""

    again: Callable[[], None]

    def get_backend(self) -> str:
        return NAME

    def next_rendezvous(self) -> RendezvousInfo:
        if self._bootstrap_store_info:
            self.again()
        self._bootstrap_store_info = self._shared_tcp_store_server = None
        return answered(
            super().next_rendezvous, self._settings.timeout.join.total_seconds() + ANSWER
        )

    def num_nodes_waiting(self) -> int:
        return answered(super().num_nodes_waiting, ANSWER)

    def shutdown(self) -> bool:
        return answered(super().shutdown, ANSWER)

    def _create_tcp_store_server(self, master_addr: str, master_port: int) -> TCPStore:
        return listen(master_addr, master_port)


def check_settings(settings: dict[str, str]) -> dict:
    """Return what PET_RDZV_CONF says, as numbers, with torchrun's own where it says nothing.

    Raises:
        UserError: a value is wrong.
    """
    checked: dict = dict(settings)
    for name, usual in TIMEOUTS.items():
        value = str(settings.get(name, usual))
        if not value.isdecimal() or not 0 < int(value) <= 10**6:
            raise UserError(f"PET_RDZV_CONF: {name}: {value}: use whole seconds, from 1 to 1000000")
        checked[name] = int(value)
    if "is_host" in settings:
        if settings["is_host"] not in HOST:
            raise UserError(f"PET_RDZV_CONF: is_host: {settings['is_host']}: use 0 or 1")
        checked["is_host"] = HOST[settings["is_host"]]
    return checked


def meet(params: RendezvousParameters) -> Rendezvous:
    """Return the rendezvous of the hosts at `params.endpoint`, where this one listens if it is its own.

    Raises:
        UserError: the host that listens cannot be reached.
    """
    address, port = parse_rendezvous_endpoint(params.endpoint, default_port=0)
    patience = params.get("join_timeout")
    if params.max_nodes > 1:
        hosts = f"{params.min_nodes} host{'s' if params.min_nodes > 1 else ''}"
        print(f"Waiting until {hosts} have come to {address}:{port}.", flush=True)
    ours = params.get("is_host")
    store = None
    if ours or (ours is None and own_address(address, port) == address):
        try:
            store = listen(address, port)
        except OSError as error:
            if ours or params.max_nodes == 1:
                raise UserError(
                    f"{address}:{port}: {error.strerror}; choose another port"
                ) from None
    if store is None:  # another host listens, or another process of this one
        store = connect(address, port, patience)
    seconds = {
        name.removesuffix("_timeout"): timedelta(seconds=params.get(name)) for name in TIMEOUTS
    }
    return Rendezvous.from_backend(
        params.run_id,
        store,
        C10dRendezvousBackend(store, params.run_id),
        params.min_nodes,
        params.max_nodes,
        params.local_addr,
        RendezvousTimeout(**seconds),
    )


def listen(address: str, port: int) -> TCPStore:
    """Return a server that listens at this address; port 0 is any that is free."""
    listener = socket.create_server((address, port))
    return TCPStore(
        address,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def connect(address: str, port: int, patience: float) -> TCPStore:
    """Return a client of the server there, as soon as it listens.

    Raises:
        UserError: it does not within `patience` seconds, or is something else.
    """
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            break
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"PET_RDZV_ENDPOINT: {address}:{port}: {error.strerror or error}, for {patience} "
                    "seconds (PET_RDZV_CONF=join_timeout=…); is the host right, the port open, and was "
                    "`dvc repro` started there with the same PET_NNODES and PET_RDZV_ENDPOINT?"
                ) from None
            time.sleep(0.5)
    try:
        return answered(partial(TCPStore, address, port, wait_for_workers=False), patience)
    except (LostError, RuntimeError):
        raise UserError(
            f"PET_RDZV_ENDPOINT: what listens at {address}:{port} is no training; choose another port, "
            "the same on all hosts"
        ) from None


def answered(ask: Callable[[], Answer], patience: float) -> Answer:
    """Return what `ask` returns, which waits for ever for a host that accepts and then says nothing.

    Raises:
        LostError: it has not returned after `patience` seconds.
    """
    answer: Future = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # for the thread that waits
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(patience)
    except TimeoutError:
        raise LostError(
            f"the host that listens at PET_RDZV_ENDPOINT has not answered for {patience:.0f} seconds; "
            "`dvc repro` goes on from the last whole epoch"
        ) from None
