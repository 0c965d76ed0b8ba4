"""How a training on several processes starts: by torchrun's engine, with torchrun's own variables.

torchrun reads each of its options from an environment variable, too: PET_NPROC_PER_NODE,
PET_NNODES, PET_RDZV_ENDPOINT and so on; Kubeflow sets the same. If there is any, the stage starts
itself anew as torchrun would, so many times, and waits. What torchrun leaves to the user is found out:
which host listens (`meeting.py`), by which addresses and interfaces the hosts reach one another
(`addresses.py`).
"""

import argparse
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

from stages.common.errors import COLLECTED, UserError, collected
from stages.common.files import temporary_folder
from stages.common.processes import PARENT, WORKER, Alone, is_child
from stages.training.addresses import PORT, choose_interface, own_address, resolve


class LostError(UserError):
    """Another process of the training has ended, for a reason that it knows better."""

    exit_code = 75  # try again


def is_wanted() -> bool:
    """Say whether this process should start others."""
    asked = WORKER in sys.argv or any(name.startswith("PET_") for name in os.environ)
    return asked and not is_child()


def place() -> dict:
    """Return where this process, a child, runs, and as what."""
    return {
        "host": own_address(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])),
        "local_rank": int(os.environ["LOCAL_RANK"]),
        "worker": WORKER in sys.argv,
        "launched": COLLECTED in os.environ,
    }


def launch() -> NoReturn:
    """Start the processes of the stage, and end as they end.

    Raises:
        UserError: the variables are wrong, the hosts do not meet, or a process failed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher import api

    if "LOGLEVEL" not in os.environ:  # torchrun's own lines say little to whom did not write it
        logging.disable(logging.ERROR)
    # How long one that has succeeded waits for the others to say so, too; without it, five minutes.
    api.LocalElasticAgent = partial(api.LocalElasticAgent, exit_barrier_timeout=30)
    os.environ[PARENT] = str(os.getpid())
    Alone.share()
    with temporary_folder() as folder:
        config = configuration(folder)
        os.environ[COLLECTED] = f"{folder}/errors"
        try:
            api.elastic_launch(config, sys.executable)("-m", "stages.train", *sys.argv[1:])
        except ChildFailedError as error:
            raise cause(error) from None
        except RendezvousError as error:
            raise reason() or UserError(
                f"{config.min_nodes} hosts were to meet at {config.rdzv_endpoint}, but did not "
                f"({type(error).__name__}: {error}); start `dvc repro` on one and `make worker` on "
                "the others within PET_RDZV_CONF=join_timeout=… seconds of each other"
            ) from None
        except LostError as error:
            raise reason() or error from None
        except SignalException as error:
            sys.exit(128 + error.sigval)
        finally:
            del os.environ[COLLECTED]  # this process tells its lines itself
    sys.exit()


def configuration(folder: Path) -> "LaunchConfig":  # noqa: F821  imported late: torch's launcher
    """Return what torchrun makes of the variables, and what it leaves open.

    Raises:
        UserError: a variable is wrong or missing.
    """
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
    from torch.distributed.run import config_from_args, parse_args

    from stages.training import meeting

    try:
        args = parse_args(["--module", "stages.train"])
        args.log_dir = args.log_dir or str(folder)  # else a folder stays in /tmp
        config, _, _ = config_from_args(args)
    except SystemExit:
        raise UserError("a variable PET_… is wrong: the line above says which") from None
    except (ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"PET_NNODES, PET_NPROC_PER_NODE or another PET_…: {error}") from None
    if config.nproc_per_node < 1:
        raise UserError(f"PET_NPROC_PER_NODE: {config.nproc_per_node}: use at least 1")
    if config.rdzv_backend not in ("static", "c10d"):
        raise UserError(f"PET_RDZV_BACKEND: {config.rdzv_backend}: use c10d, or leave it out")
    if config.monitor_interval <= 0:
        raise UserError(f"PET_MONITOR_INTERVAL: {config.monitor_interval}: use more than 0")
    config.rdzv_configs = meeting.check_settings(config.rdzv_configs)
    host, port = endpoint(args, config.max_nodes)
    address = resolve(host, config.rdzv_configs["join_timeout"])
    if config.max_nodes > 1 and address.startswith("127.") and host not in (address, "localhost"):
        raise UserError(
            f"PET_RDZV_ENDPOINT: {host} is {address} on this host, by which others cannot reach it; "
            "give its address in their network instead of the name"
        )
    if config.local_addr:
        config.local_addr = resolve(config.local_addr, patience=0)
    else:
        config.local_addr = own_address(address, port)
    choose_interface(config.local_addr)
    config.rdzv_endpoint, config.rdzv_backend = f"{address}:{port}", meeting.NAME
    rendezvous_handler_registry.register(config.rdzv_backend, meeting.meet)
    meeting.Rendezvous.again = staticmethod(start_again)
    return config


def endpoint(args: argparse.Namespace, hosts: int) -> tuple[str, int]:
    """Return where so many hosts meet: the name of one, and a port.

    Raises:
        UserError: it is not said, or cannot be one.
    """
    if hosts == 1:
        if WORKER in sys.argv:
            raise UserError(
                "PET_NNODES: how many hosts train together is not said; start `make worker` as "
                "PET_NNODES=2 PET_RDZV_ENDPOINT=<first host>:29400 make worker (docs/scaling.md)"
            )
        return "127.0.0.1", 0
    if args.rdzv_endpoint:
        name, value = "PET_RDZV_ENDPOINT", args.rdzv_endpoint
        host, _, port = value.partition(":")
        port = port or PORT
    elif "PET_MASTER_ADDR" in os.environ:
        name, host, port = "PET_MASTER_ADDR and PET_MASTER_PORT", args.master_addr, args.master_port
        value = f"{host}:{port}"
    else:
        raise UserError(
            "PET_RDZV_ENDPOINT: not set, but PET_NNODES says that several hosts train; give all of "
            "them the address of one: PET_RDZV_ENDPOINT=<first host>:29400"
        )
    if not host or ":" in host or not str(port).isdecimal() or not 0 < int(port) < 65_536:
        raise UserError(
            f"{name}: {value}: use the name or IPv4 address of a host and a port from 1 to 65535, "
            f"as in 10.0.0.5:{PORT}"
        )
    return host, int(port)


def start_again() -> None:
    """Say that all processes start anew, as PET_MAX_RESTARTS allows.

    Raises:
        UserError: that would not help.
    """
    if (found := reason()) and found.exit_code != LostError.exit_code:
        raise found
    print("The processes have changed; all start anew after the last whole epoch.", flush=True)


def reason() -> UserError | None:
    """Return what a process of this host has said, if any: the cause before what followed from it."""
    errors = sorted(collected(), key=lambda error: error.exit_code == LostError.exit_code)
    return errors[0] if errors else None


def cause(error: "ChildFailedError") -> UserError:  # noqa: F821
    """Return what a process of this host has said, or a line for one that could say nothing."""
    found = reason()
    killed = [one for one in error.failures.values() if one.exitcode < 0]
    if found and not (found.exit_code == LostError.exit_code and killed):
        return found
    first = killed[0] if killed else error.get_first_failure()[1]
    if killed:
        how = f"was ended by {signal.Signals(-first.exitcode).name}"
    else:
        how = f"ended with exit code {first.exitcode} (what it said is above)"
    return UserError(
        f"process {first.local_rank} of the training, {first.pid}, {how}; `dvc repro` goes on after "
        "the last whole epoch"
    )
