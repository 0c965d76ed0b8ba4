"""By which addresses and interfaces the hosts of a training reach one another.

gloo and NCCL would take the interface of the host's own name, which is often the loopback.
"""

import fcntl
import os
import socket
import struct
import sys
import time

from stages.common.errors import UserError

PORT = 29400  # torchrun's


def resolve(host: str, patience: float) -> str:
    """Return the IPv4 address of a host, whose name may take a while to be known (Kubernetes).

    Raises:
        UserError: it is not known after `patience` seconds.
    """
    end, told = time.monotonic() + patience, False
    while True:
        try:
            return socket.gethostbyname(host)
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end or host.replace(".", "").isdigit():
                raise UserError(
                    f"{host}: no host of this name is known: {error}; use its name or IPv4 address"
                ) from None
            if not told:
                print(f"Waiting until the name {host} is known.", flush=True)
                told = True
            time.sleep(1)


def own_address(host: str, port: int) -> str:
    """Return the address of this machine from which packets go to `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port or 1))
        except OSError as error:
            raise UserError(
                f"PET_RDZV_ENDPOINT: {host} cannot be reached: {error.strerror}"
            ) from None
        return probe.getsockname()[0]


def choose_interface(address: str) -> None:
    """Have gloo and NCCL use the network interface that has this address, unless one is chosen.

    Raises:
        UserError: none has.
    """
    if not sys.platform.startswith("linux"):
        return
    known = [name for _, name in socket.if_nameindex()]
    if (chosen := os.environ.get("GLOO_SOCKET_IFNAME")) is not None:
        if not set(chosen.split(",")) <= set(known):
            raise UserError(f"GLOO_SOCKET_IFNAME: {chosen}: here are {', '.join(known)}")
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for name in known:
            request = struct.pack("256s", name.encode()[:15])
            try:  # SIOCGIFADDR, of `man 7 netdevice`
                found = fcntl.ioctl(probe, 0x8915, request)[20:24]
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(found) == address:
                os.environ["GLOO_SOCKET_IFNAME"] = name
                os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
                return
    raise UserError(
        f"GLOO_SOCKET_IFNAME: not set, and no interface of this host has {address} as its first "
        "address; set it to the one that the hosts share (`ip address` lists them)"
    )
