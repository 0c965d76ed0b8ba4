"""How a training on several processes starts: by torchrun, with torchrun's own variables.

torchrun reads each of its options from an environment variable, too: PET_NPROC_PER_NODE, PET_NNODES,
PET_RDZV_ENDPOINT and so on; Kubeflow sets the same. If there is any, the stage calls torchrun, which
starts `python -m stages.train` so many times, and ends as it ends.
"""

import fcntl
import logging
import os
import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING, NoReturn

from stages.runtime.errors import UserError
from stages.runtime.outputs import temporary_folder
from stages.runtime.processes import LAUNCHED, WORKER, Lock, is_child

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


class LostError(UserError):
    """Another process of the training has ended, for a reason that it knows better."""


def is_requested() -> bool:
    """Return whether this process should start others."""
    requested = WORKER in sys.argv or any(name.startswith("PET_") for name in os.environ)
    return requested and not is_child()


def launch() -> NoReturn:
    """Start the processes of the stage, and end as they end.

    Raises:
        UserError: a process failed, or torchrun did.
    """
    # Here, since they take a moment to load.
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if WORKER in sys.argv and "PET_NNODES" not in os.environ:
        raise UserError(
            "PET_NNODES: not set; start `make worker` as PET_NNODES=2 "
            "PET_RDZV_ENDPOINT=<first host>:29400 make worker (docs/scaling.md)"
        )
    os.environ[LAUNCHED] = "1"
    if "LOGLEVEL" not in os.environ:  # torchrun reports a failure in some 40 lines
        logging.disable(logging.ERROR)
    if endpoint := os.environ.get("PET_RDZV_ENDPOINT"):
        meet_at(endpoint.partition(":")[0])
    Lock.share()
    with temporary_folder() as folder:
        os.environ.setdefault("PET_LOG_DIR", str(folder))  # else a folder stays in /tmp
        try:
            torchrun.main(["--module", "stages.train", *sys.argv[1:]])
        except ChildFailedError as error:
            raise first_failure(error) from None
        except SignalException as error:
            sys.exit(128 + error.sigval)
        except Exception as error:  # torchrun has its own for each of its options
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"torchrun: {type(error).__name__}: {reason}; docs/scaling.md explains the variables"
            ) from None
    sys.exit()


def meet_at(host: str) -> None:
    """Set what torchrun would take from the host's own name, which is often that of the loopback."""
    try:
        address, own = socket.gethostbyname(host), own_address(host)
    except OSError as error:
        raise UserError(
            f"PET_RDZV_ENDPOINT: {host}: {error.strerror}; use a host that is up"
        ) from None
    os.environ.setdefault("PET_RDZV_BACKEND", "c10d")
    os.environ.setdefault("PET_LOCAL_ADDR", own)
    os.environ.setdefault("PET_RDZV_CONF", f"is_host={int(own == address)}")


def first_failure(error: "ChildFailedError") -> UserError:
    """Return the cause of a failed training: not what followed from it in other processes."""
    failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
    # A process that could report has left {"message": "UserError: params.yaml: …", …}.
    reports: list[object] = [failure.message for failure in failures]
    messages = [str(report["message"]) for report in reports if isinstance(report, dict)]
    causes = [message for message in messages if not message.startswith(LostError.__name__)]
    silent = [
        failure
        for failure, report in zip(failures, reports, strict=True)
        if not isinstance(report, dict)
    ]
    if causes or not silent:
        return UserError([*causes, *messages][0].partition("Error: ")[2])
    first = silent[0]
    how = f"exit code {first.exitcode} (its own message is above)"
    if first.exitcode < 0:
        how = signal.Signals(-first.exitcode).name
    return UserError(
        f"process {first.local_rank} of the training, {first.pid}, was ended by {how}; `dvc repro` "
        "resumes after the last whole epoch"
    )


def own_address(host: str) -> str:
    """Return the address of this machine from which packets go to `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 1))
        return probe.getsockname()[0]


def choose_interface(address: str) -> None:
    """Have gloo and NCCL use the network interface with this address, unless the user names one.

    They would take the interface of the host's own name. Linux only; see `man 7 netdevice`.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                request = struct.pack("256s", name.encode()[:15])
                found = socket.inet_ntoa(fcntl.ioctl(probe, 0x8915, request)[20:24])  # SIOCGIFADDR
            except OSError:  # an interface without an address
                continue
            if found == address:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
                os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
