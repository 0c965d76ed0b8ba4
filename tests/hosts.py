"""Hosts in a network of their own on this machine: network namespaces, joined by the kernel's bridge.

Each has one address; all have the name of this machine. They need root's rights, and Linux.
"""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator

Make = Callable[[str], str]

_networks = itertools.count()  # the kernel forgets the names of an earlier network with a delay


class NoNetworkError(Exception):
    """No network can be made here: the message names the missing right or kernel module."""


@contextlib.contextmanager
def network(rate: float | None = None, delay: float | None = None) -> Iterator[Make]:
    """Yield a function that makes a host with an address (10.9.0.2), and returns its name.

    Each host sends at up to `rate` bit/s, by htb, each packet `delay` seconds later, by netem.

    Raises:
        NoNetworkError: the rights or the kernel's modules are missing.
    """
    prefix = f"t{os.getpid() % 100_000}n{next(_networks)}"
    names: list[str] = []
    with contextlib.ExitStack() as stack:
        _run("ip", "link", "add", prefix, "type", "bridge")
        stack.callback(_run, "ip", "link", "delete", prefix)
        _run("ip", "link", "set", prefix, "up")

        def make(address: str) -> str:
            name = f"{prefix}{chr(ord('a') + len(names))}"
            names.append(name)
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "delete", name)
            outside, inside = f"{name}o", ("ip", "-netns", name)
            _run("ip", "link", "add", outside, "type", "veth", "peer", "eth0", "netns", name)
            _run("ip", "link", "set", outside, "master", prefix, "up")
            _run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
            _run(*inside, "link", "set", "eth0", "up")
            _run(*inside, "link", "set", "lo", "up")
            _shape(name, rate, delay)
            return name

        yield make


def _shape(host: str, rate: float | None, delay: float | None) -> None:
    """Limit the rate [bit/s] at which a host sends, and delay [s] its packets."""
    tc, device = ("tc", "-netns", host), ("add", "dev", "eth0")
    if rate:
        _run(*tc, "qdisc", *device, "root", "handle", "1:", "htb", "default", "1")
        # A small burst, or the gradients of a step would all pass at once.
        burst = str(max(16_000, int(rate / 8 * 50e-6)))
        limit = ("rate", f"{rate:.0f}", "burst", burst, "cburst", burst)
        _run(*tc, "class", *device, "parent", "1:", "classid", "1:1", "htb", *limit)
    if delay:
        parent = ("parent", "1:1") if rate else ("root",)
        _run(*tc, "qdisc", *device, *parent, "netem", "delay", f"{1e6 * delay:.0f}us")


def sent(host: str) -> int:
    """Return how many bytes a host has sent, headers of its packets included."""
    counter = "/sys/class/net/eth0/statistics/tx_bytes"
    return int(_run("ip", "netns", "exec", host, "cat", counter))


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except OSError as error:
        raise NoNetworkError(str(error)) from None
    except subprocess.CalledProcessError as error:
        raise NoNetworkError(f"{' '.join(command)}: {error.stderr.strip()}") from None
