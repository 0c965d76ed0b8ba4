"""How the hosts of a training meet: torch's own rendezvous, with servers that listen at one address.

torchrun's listen at all addresses of the host, and after a host has come or gone they hold on to the
server of the earlier round.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

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

NAME = "at one address"
PORT = 29400  # torchrun's
JOIN = 600  # seconds, torchrun's: how long hosts wait for one another


class Rendezvous(DynamicRendezvousHandler):
    """Torch's, of version 2.13; `again` is called before each round but the first."""

    again: Callable[[], None]

    def get_backend(self) -> str:
        return NAME

    def next_rendezvous(self) -> RendezvousInfo:
        if self._bootstrap_store_info:
            self.again()
        self._bootstrap_store_info = self._shared_tcp_store_server = None
        return super().next_rendezvous()

    def _create_tcp_store_server(self, master_addr: str, master_port: int) -> TCPStore:
        return listen(master_addr, master_port)


def meet(params: RendezvousParameters) -> Rendezvous:
    """Return the rendezvous of the hosts at `params.endpoint`, where this one listens if it is its own.

    Raises:
        UserError: the host that listens cannot be reached.
    """
    address, port = parse_rendezvous_endpoint(params.endpoint, PORT)
    patience = params.get_as_int("join_timeout", JOIN)
    if params.max_nodes > 1:
        print(f"Waiting until {params.min_nodes} hosts are at {address}:{port}.", flush=True)
    ours = params.get_as_bool("is_host")
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
        name: timedelta(seconds=value)
        for name in ("join", "last_call", "close", "heartbeat")
        if (value := params.get_as_int(f"{name}_timeout"))
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
    # In a thread: TCPStore waits for ever for an answer of what accepts a connection and says nothing.
    stores: list[TCPStore] = []

    def open_store() -> None:
        with suppress(RuntimeError):
            stores.append(
                TCPStore(address, port, wait_for_workers=False, timeout=timedelta(seconds=patience))
            )

    thread = threading.Thread(target=open_store, daemon=True)
    thread.start()
    thread.join(patience)
    if not stores:
        raise UserError(
            f"PET_RDZV_ENDPOINT: what listens at {address}:{port} is no training; choose another port, "
            "the same on all hosts"
        )
    return stores[0]
