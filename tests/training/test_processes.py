"""The same bytes on any number of processes and hosts, by real torchrun, in real networks.

Hosts are network namespaces, joined by a bridge. Each has an address of its own, and all the same name.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.project import Project, clean_environment, copy_of

pytestmark = pytest.mark.slow

WEIGHTS = "models/model_weights.pth"
LINES = [  # of a training that takes some seconds
    ("recipe: tutorial ", "recipe: convolutional "),
    ("    epochs: 8\n    batch_size: 64", "    epochs: 6\n    batch_size: 64"),
    ("    shards: 2             #", "    shards: 4             #"),
]


class Process:
    """A command in a project, on a host, whose output goes to a file."""

    def __init__(self, project: Project, *command: str, host: str = "", **environment: str):
        self.log = project.folder.parent / f"log {time.monotonic_ns()}"
        on_host = ("ip", "netns", "exec", host) if host else ()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*on_host, *command],
                cwd=project.folder,
                env=clean_environment(project.folder.parent) | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.output():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def end(self, code: int | None = 0) -> str:
        returned = self.process.wait(timeout=120)
        assert code is None or returned == code, (returned, self.output())
        return self.output()

    def children(self) -> list[int]:
        """Return the processes that train: those that this one has started, in their order."""
        found = subprocess.run(
            ["pgrep", "--parent", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return sorted(map(int, found.stdout.split()))


@pytest.fixture(scope="module")
def trained(on_digits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project that is set to a shortened convolutional recipe, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("trained")
    project = copy_of(on_digits[0], folder / "project")
    for old, new in LINES:
        project.edit("params.yaml", old, new)
    project.run("python", "-m", "stages.train")
    return project, digest(project)


@pytest.fixture
def alone(trained: tuple[Project, str], tmp_path: Path) -> tuple[Project, str]:
    """That project in a folder of its own, without the weights."""
    project = copy_of(trained[0], tmp_path / "project")
    (project.folder / WEIGHTS).unlink()
    return project, trained[1]


def digest(project: Project) -> str:
    return hashlib.sha256(project.read(WEIGHTS)).hexdigest()


def checkpoints(project: Project) -> list[Path]:
    return sorted((project.folder.parent / "cache").glob("*/checkpoints/*"))


TRAIN = ("python", "-m", "stages.train")
WORKER = (*TRAIN, "--worker")


@pytest.mark.parametrize("processes", [2, 3, 4, 5])
def test_processes_give_the_bytes_of_one(alone: tuple[Project, str], processes: int):
    project, expected = alone
    output = project.run(*TRAIN, PET_NPROC_PER_NODE=str(processes))
    assert digest(project) == expected
    assert (
        f"Training on {'4 of ' if processes > 4 else ''}{processes} processes on 1 host" in output
    )
    assert output.count("Epoch 1: ") == 1
    assert "Warning" not in output
    assert not checkpoints(project)


def test_started_by_torchrun_itself(alone: tuple[Project, str]):
    project, expected = alone
    project.run("torchrun", "--standalone", "--nproc-per-node=2", "--module", "stages.train")
    assert digest(project) == expected


def test_a_recipe_of_one_part_is_computed_by_one(reproduced: Project):
    expected = digest(reproduced)
    output = reproduced.run(*TRAIN, PET_NPROC_PER_NODE="2")
    assert "Training on 1 of 2 processes on 1 host: the recipe's `shards` is 1" in output
    assert digest(reproduced) == expected


def test_dvc_records_the_same(committed: Project):
    """Another epoch first, so that there is something to record."""
    committed.edit("params.yaml", LINES[0][0], LINES[0][1])
    committed.edit("params.yaml", LINES[1][0], LINES[1][1])
    other = copy_of(committed, committed.folder.parent / "other")
    committed.run("dvc", "repro")
    shutil.rmtree(other.folder / ".dvc/cache/runs")  # it is to run, too
    assert "Training on 2 processes" in other.run("dvc", "repro", PET_NPROC_PER_NODE="2")
    for name in ("dvc.lock", "metrics/train.json", "metrics/epochs.csv", "metrics/evaluate.json"):
        assert committed.read(name) == other.read(name)
    assert committed.git_status() == other.git_status()


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"PET_NPROC_PER_NODE": "0"}, "error: PET_NPROC_PER_NODE: 0: use at least 1"),
        ({"PET_NNODES": "two"}, "error: PET_NNODES, PET_NPROC_PER_NODE or another PET_…: "),
        (
            {"PET_NNODES": "2"},
            "error: PET_RDZV_ENDPOINT: not set, but PET_NNODES says that several",
        ),
        (
            {"PET_NNODES": "2", "PET_RDZV_ENDPOINT": "127.0.0.1:1", "PET_LOCAL_ADDR": "127.0.0.1"}
            | {"PET_RDZV_CONF": "join_timeout=2,is_host=0"},
            "error: PET_RDZV_ENDPOINT: 127.0.0.1:1: Connection refused, for 2 seconds",
        ),
        (
            {
                "PET_NNODES": "2",
                "PET_RDZV_ENDPOINT": "localhost",
                "PET_RDZV_CONF": "join_timeout=3",
            },
            "error: 2 hosts were to meet at 127.0.0.1:29400, but did not",
        ),
    ],
    ids=["no process", "no number", "no endpoint", "nobody listens", "nobody comes"],
)
def test_what_is_wrong_is_said_in_one_line(
    alone: tuple[Project, str], variables: dict[str, str], line: str
):
    project, _ = alone
    started = time.monotonic()
    output = project.run(*TRAIN, fails=True, **variables)
    assert output.splitlines()[-1].startswith(line)
    assert "Traceback" not in output
    assert time.monotonic() - started < 60
    assert not (project.folder / WEIGHTS).exists()


def test_a_worker_without_a_host_to_help_says_so(alone: tuple[Project, str]):
    output = alone[0].run(*WORKER, fails=True)
    assert output.startswith("error: PET_NNODES: how many hosts train together is not said; ")


def test_a_wrong_parameter_is_one_line_with_processes_too(alone: tuple[Project, str]):
    project, _ = alone
    project.edit(
        "params.yaml", "seed: 0                 # draws initial", "seed: -1 # draws initial"
    )
    output = project.run(*TRAIN, fails=True, PET_NPROC_PER_NODE="2")
    assert output.count("\n") == 1
    assert output.startswith("error: params.yaml: train.seed: -1 is not allowed")


def kill(process: Process, whom: str) -> None:
    if whom == "all":
        for pid in process.children() if "Training on" in process.output() else []:
            os.kill(pid, signal.SIGKILL)
        process.process.kill()
    elif whom == "parent":
        process.process.kill()
    else:
        os.kill(process.children()[int(whom)], signal.SIGKILL)


@pytest.mark.parametrize(
    ("processes", "whom"), [(0, "all"), (2, "0"), (2, "1"), (2, "parent"), (2, "all")]
)
def test_what_was_killed_goes_on_with_the_same_bytes(
    alone: tuple[Project, str], processes: int, whom: str
):
    project, expected = alone
    variables = {"PET_NPROC_PER_NODE": str(processes)} if processes else {}
    training = Process(project, *TRAIN, **variables)
    training.wait_for("Epoch 2: ")
    kill(training, whom)
    output = training.end(code=None)
    if whom in "01":
        assert "was ended by SIGKILL" in output.splitlines()[-1]
        assert output.count("error: ") == 1
    time.sleep(2)  # children that have lost their parent end within a second
    assert not (project.folder / WEIGHTS).exists()
    output = project.run(*TRAIN)
    assert "Going on after epoch " in output
    assert "Epoch 2: " not in output
    assert digest(project) == expected
    assert not checkpoints(project)


def test_another_training_never_takes_a_checkpoint_up(alone: tuple[Project, str]):
    project, expected = alone
    training = Process(project, *TRAIN)
    training.wait_for("Epoch 2: ")
    project.edit("params.yaml", "warmup: 0.15          # share", "warmup: 0.1 # share")
    assert "changed from 0.15 to 0.1 while train was running" in training.end(code=1)
    assert "Going on" not in project.run(*TRAIN)
    project.edit("params.yaml", "warmup: 0.1 # share", "warmup: 0.15          # share")
    assert "Going on after epoch 2" in project.run(*TRAIN)  # taking the edit back costs nothing
    assert digest(project) == expected


def test_the_group_restarts_where_a_worker_dies(alone: tuple[Project, str]):
    project, expected = alone
    training = Process(project, *TRAIN, PET_NPROC_PER_NODE="2", PET_MAX_RESTARTS="2")
    training.wait_for("Epoch 2: ")
    kill(training, "1")
    output = training.end()
    assert "A process has ended; all start again after the last whole epoch." in output
    assert "Going on after epoch " in output
    assert digest(project) == expected


Hosts = Callable[[str], str]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """A function that makes a host with an address, for example 10.9.0.2, and returns its name."""
    run = lambda *command: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
    prefix = f"t{os.getpid() % 100_000}"
    names = []
    with contextlib.ExitStack() as stack:
        try:
            run("ip", "link", "add", prefix, "type", "bridge")
            stack.callback(run, "ip", "link", "delete", prefix)
            run("ip", "link", "set", prefix, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces can be made here: {error}")

        def make(address: str) -> str:
            name = f"{prefix}{chr(ord('a') + len(names))}"
            names.append(name)
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "delete", name)
            outside = f"{name}o"
            run("ip", "link", "add", outside, "type", "veth", "peer", "eth0", "netns", name)
            run("ip", "link", "set", outside, "master", prefix, "up")
            inside = ("ip", "-netns", name)
            run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "link", "set", "lo", "up")
            return name

        yield make


def variables(hosts: int, elastic: bool, rank: int, address: str = "10.9.0.2") -> dict[str, str]:
    """Return what a host is started with: by either way of meeting."""
    if elastic:
        return {"PET_NNODES": str(hosts), "PET_RDZV_ENDPOINT": f"{address}:29400"}
    return {
        "PET_NNODES": str(hosts),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": "29400",
        "PET_NODE_RANK": str(rank),
    }


@pytest.mark.parametrize(("count", "elastic"), [(2, True), (2, False), (3, True)])
def test_hosts_give_the_bytes_of_one(
    alone: tuple[Project, str], hosts: Hosts, tmp_path: Path, count: int, elastic: bool
):
    """The workers come first, and one has the first rank: 10.9.0.10 is before 10.9.0.2."""
    project, expected = alone
    first = hosts("10.9.0.2")
    workers = []
    for number in range(1, count):
        clone = copy_of(project, tmp_path / f"host {number}" / "project")
        clone.folder.parent.joinpath("cache").mkdir()
        before = state_of(clone)
        host = hosts(f"10.9.0.1{number - 1}")
        process = Process(clone, *WORKER, host=host, **variables(count, elastic, number))
        workers.append((clone, before, process))
    time.sleep(1)
    training = Process(project, *TRAIN, host=first, **variables(count, elastic, 0))
    listening = ""
    while "Epoch 2: " not in training.output():
        listening = subprocess.run(
            ["ip", "netns", "exec", first, "ss", "-Htln"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert training.process.poll() is None, training.output()
        time.sleep(0.1)
    output = training.end()
    assert f"Training on {count} processes on {count} hosts" in output
    assert digest(project) == expected
    addresses = {line.split()[3].rpartition(":")[0] for line in listening.splitlines()}
    assert addresses == {"10.9.0.2"}  # not 0.0.0.0
    for clone, before, process in workers:
        assert "Epoch" not in process.end()
        assert state_of(clone) == before
        assert not checkpoints(clone)


def state_of(project: Project) -> dict[str, bytes]:
    files = (path for path in project.folder.rglob("*") if path.is_file())
    return {
        str(path): path.read_bytes()
        for path in files
        if not {".git", ".venv", "__pycache__"} & set(path.parts)
    }


def test_another_code_is_refused_on_both_sides(
    alone: tuple[Project, str], hosts: Hosts, tmp_path: Path
):
    project, _ = alone
    clone = copy_of(project, tmp_path / "host 1" / "project")
    with (clone.folder / "stages/training/distortion.py").open("a") as file:
        file.write("# another line\n")
    worker = Process(clone, *WORKER, host=hosts("10.9.0.1"), **variables(2, True, 1))
    training = Process(project, *TRAIN, host=hosts("10.9.0.2"), **variables(2, True, 0))
    for process in (worker, training):
        line = process.end(code=1).splitlines()[-1]
        assert line.startswith(
            "error: 10.9.0.2 and 10.9.0.1 would not compute the same: they differ in "
            "stages/training/distortion.py; bring both to the same commit"
        )


@pytest.mark.parametrize("whom", ["worker", "first"])
def test_a_host_that_ends_costs_an_epoch(
    alone: tuple[Project, str], hosts: Hosts, tmp_path: Path, whom: str
):
    project, expected = alone
    clone = copy_of(project, tmp_path / "host 1" / "project")
    first, second = hosts("10.9.0.2"), hosts("10.9.0.10")
    worker = Process(clone, *WORKER, host=second, **variables(2, True, 1))
    training = Process(project, *TRAIN, host=first, **variables(2, True, 0))
    training.wait_for("Epoch 2: ")
    killed, left = (worker, training) if whom == "worker" else (training, worker)
    kill(killed, "all")
    killed.end(code=None)
    line = left.end(code=None).splitlines()[-1]
    assert line.startswith("error: another process of the training has ended or does not answer")
    assert "Going on after epoch " in project.run(*TRAIN)
    assert digest(project) == expected


def test_a_port_that_is_in_use_by_something_else_is_one_line(alone: tuple[Project, str]):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        output = alone[0].run(
            *TRAIN,
            fails=True,
            PET_NNODES="2",
            PET_RDZV_ENDPOINT=address,
            PET_RDZV_CONF="join_timeout=3",
        )
    assert f"error: PET_RDZV_ENDPOINT: what listens at {address} is no training" in output
