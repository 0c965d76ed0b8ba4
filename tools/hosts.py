"""Hosts of a network of their own on this machine, for the tests and the benchmark.

Each is a network namespace with one address; all have the name of this machine. It takes root's rights.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context

Make = Callable[[str], str]

_networks = itertools.count()  # the kernel takes a moment to forget the names of an earlier one


class NoNetworkError(Exception):
    """No network can be made here: the message says why."""


@contextlib.contextmanager
def network(rate: float | None = None, delay: float | None = None) -> Iterator[Make]:
    """Yield a function that makes a host with an address (10.9.0.2), and returns its name.

    Each host sends at up to `rate` bit/s, by htb. With a `delay`, in seconds, a relay carries the
    packets from host to host, each that much later, in place of the kernel's bridge (whose netem not
    every kernel has).

    Raises:
        NoNetworkError: the rights or the kernel's modules for it are missing.
    """
    prefix = f"t{os.getpid() % 100_000}n{next(_networks)}"
    names: list[str] = []
    with contextlib.ExitStack() as stack:
        plug = _bridge(prefix, stack) if delay is None else _relay(prefix, delay, stack)

        def make(address: str) -> str:
            name = f"{prefix}{chr(ord('a') + len(names))}"
            names.append(name)
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "delete", name)
            plug(name, address)
            inside = ("ip", "-netns", name)
            _run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
            _run(*inside, "link", "set", "eth0", "up")
            _run(*inside, "link", "set", "lo", "up")
            if rate:
                tc = ("tc", "-netns", name)
                _run(
                    *tc,
                    *["qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default", "1"],
                )
                # Small, or the gradients of a step would all pass at once.
                burst = str(max(16_000, int(rate / 8 * 50e-6)))
                limit = ("rate", f"{rate:.0f}", "burst", burst, "cburst", burst)
                _run(*tc, "class", "add", "dev", "eth0", "classid", "1:1", "htb", *limit)
            return name

        yield make


def sent(host: str) -> int:
    """Return how many bytes a host has sent, headers of its packets included."""
    counter = "/sys/class/net/eth0/statistics/tx_bytes"
    return int(_run("ip", "netns", "exec", host, "cat", counter))


def _bridge(prefix: str, stack: contextlib.ExitStack) -> Callable[[str, str], None]:
    _run("ip", "link", "add", prefix, "type", "bridge")
    stack.callback(_run, "ip", "link", "delete", prefix)
    _run("ip", "link", "set", prefix, "up")

    def plug(name: str, _address: str) -> None:
        outside = f"{name}o"
        _run("ip", "link", "add", outside, "type", "veth", "peer", "eth0", "netns", name)
        _run("ip", "link", "set", outside, "master", prefix, "up")

    return plug


def _relay(prefix: str, delay: float, stack: contextlib.ExitStack) -> Callable[[str, str], None]:
    ours, theirs = socket.socketpair()
    process = get_context("fork").Process(target=_carry, args=(theirs, delay), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(process.terminate)

    def plug(name: str, address: str) -> None:
        try:
            link = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            outside = f"{name}o"
            # TUNSETIFF with IFF_TUN | IFF_NO_PI, of the kernel's networking/tuntap.rst
            fcntl.ioctl(link, 0x400454CA, struct.pack("16sH22x", outside.encode(), 0x1001))
        except OSError as error:
            raise NoNetworkError(f"/dev/net/tun: {error}") from None
        _run("ip", "link", "set", outside, "netns", name, "name", "eth0", "mtu", "65000")
        socket.send_fds(ours, [socket.inet_aton(address)], [link])
        os.close(link)

    return plug


def _carry(hosts: socket.socket, delay: float) -> None:
    """Carry packets from host to host for ever, each `delay` seconds after it was sent."""
    links: dict[bytes, int] = {}  # by their addresses
    waiting: list[tuple[float, int, bytes]] = []
    number = 0
    while True:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([hosts, *links.values()], [], [], patience)
        now = time.monotonic()
        for link in ready:
            if link is hosts:
                address, descriptors, _, _ = socket.recv_fds(hosts, 4, 1)
                links[address] = descriptors[0]
                continue
            with contextlib.suppress(OSError):  # nothing more; or the host is gone
                while packet := os.read(link, 65_535):
                    heapq.heappush(waiting, (now + delay, number, packet))
                    number += 1
        while waiting and waiting[0][0] <= time.monotonic():
            packet = heapq.heappop(waiting)[2]
            if target := links.get(packet[16:20]):  # IPv4's destination
                with contextlib.suppress(OSError):  # full, as a real link may be
                    os.write(target, packet)


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except OSError as error:
        raise NoNetworkError(str(error)) from None
    except subprocess.CalledProcessError as error:
        raise NoNetworkError(f"{' '.join(command)}: {error.stderr.strip()}") from None
