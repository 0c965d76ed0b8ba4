"""The same bytes on any number of processes and hosts, by real torchrun, in real networks.

Hosts are network namespaces, joined by a bridge. Each has an address of its own, and all the same name.
"""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import ROOT, Project, Running, copy_of
from tools.hosts import Make, NoNetworkError, network

pytestmark = pytest.mark.slow

WEIGHTS = "models/model_weights.pth"
# KILLS=10: how often each process is killed, at random moments of a longer training.
KILLS = int(os.environ.get("KILLS", "1"))
EPOCHS = 12 if KILLS == 1 else 40
LINES = [  # of a training that takes some seconds
    ("recipe: tutorial ", "recipe: convolutional "),
    ("    epochs: 8\n    batch_size: 64", f"    epochs: {EPOCHS}\n    batch_size: 64"),
    ("    shards: 2             #", "    shards: 4             #"),
]


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
    project = copy_of(trained[0], tmp_path / "Ünsere Bilder é")
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
    torchrun = ("torchrun", "--standalone", "--nproc-per-node=2", "--module", "stages.train")
    assert "Training on 2 processes on 1 host" in project.run(*torchrun)
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


HOSTS = {"PET_NNODES": "2"}


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
            HOSTS | {"PET_RDZV_ENDPOINT": "[::1]:29400"},
            "error: PET_RDZV_ENDPOINT: [::1]:29400: use",
        ),
        (
            HOSTS | {"PET_RDZV_ENDPOINT": "127.0.0.1:0"},
            "error: PET_RDZV_ENDPOINT: 127.0.0.1:0: use",
        ),
        (
            HOSTS | {"PET_MASTER_ADDR": "a", "PET_MASTER_PORT": "99999"},
            "error: PET_MASTER_ADDR and",
        ),
        (
            HOSTS | {"PET_RDZV_ENDPOINT": "a..b", "PET_RDZV_CONF": "join_timeout=2"},
            "error: a..b: no host of this name is known",
        ),
        (HOSTS | {"PET_RDZV_CONF": "join_timeout=x"}, "error: PET_RDZV_CONF: join_timeout: x: use"),
        (HOSTS | {"PET_RDZV_CONF": "is_host=maybe"}, "error: PET_RDZV_CONF: is_host: maybe: use"),
        (HOSTS | {"PET_RDZV_BACKEND": "etcd"}, "error: PET_RDZV_BACKEND: etcd: use c10d"),
        (HOSTS | {"PET_MONITOR_INTERVAL": "0"}, "error: PET_MONITOR_INTERVAL: 0.0: use more"),
        (
            HOSTS | {"PET_RDZV_ENDPOINT": "127.0.0.1", "GLOO_SOCKET_IFNAME": "nope0"},
            "error: GLOO_SOCKET_IFNAME: nope0: here are lo",
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


kills = pytest.mark.parametrize("attempt", range(KILLS))


def wait_a_while(process: Running, attempt: int) -> None:
    """Wait until a moment after the second epoch, which is another one in each attempt."""
    chance = random.Random(attempt)
    process.wait_for(f"Epoch {chance.randint(2, EPOCHS // 2 + 1)}: ")
    time.sleep(chance.random() / 2)


def kill(process: Running, whom: str) -> None:
    if whom == "all":
        for pid in process.children():
            os.kill(pid, signal.SIGKILL)
        process.process.kill()
    elif whom == "parent":
        process.process.kill()
    else:
        os.kill(process.children()[int(whom)], signal.SIGKILL)


@kills
@pytest.mark.parametrize(
    ("processes", "whom"), [(0, "all"), (2, "0"), (2, "1"), (2, "parent"), (2, "all")]
)
def test_what_was_killed_goes_on_with_the_same_bytes(
    alone: tuple[Project, str], processes: int, whom: str, attempt: int
):
    project, expected = alone
    variables = {"PET_NPROC_PER_NODE": str(processes)} if processes else {}
    training = Running(project, *TRAIN, **variables)
    wait_a_while(training, attempt)
    kill(training, whom)
    output = training.end(fails=None)
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
    training = Running(project, *TRAIN)
    training.wait_for("Epoch 2: ")
    project.edit("params.yaml", "warmup: 0.15          # share", "warmup: 0.1 # share")
    assert "changed from 0.15 to 0.1 while train was running" in training.end(fails=True)
    assert "Going on" not in project.run(*TRAIN)
    project.edit("params.yaml", "warmup: 0.1 # share", "warmup: 0.15          # share")
    assert "Going on after epoch 2" in project.run(*TRAIN)  # taking the edit back costs nothing
    assert digest(project) == expected


def test_the_group_restarts_where_a_worker_dies(alone: tuple[Project, str]):
    project, expected = alone
    training = Running(project, *TRAIN, PET_NPROC_PER_NODE="2", PET_MAX_RESTARTS="2")
    training.wait_for("Epoch 2: ")
    kill(training, "1")
    output = training.end()
    assert "all start anew after the last whole epoch" in output
    assert "Going on after epoch " in output
    assert digest(project) == expected


@pytest.fixture
def hosts() -> Iterator[Make]:
    """A function that makes a host with an address, for example 10.9.0.2, and returns its name."""
    with contextlib.ExitStack() as stack:
        try:
            make = stack.enter_context(network())
        except NoNetworkError as error:
            pytest.skip(f"no network namespaces can be made here: {error}")
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
    alone: tuple[Project, str], hosts: Make, tmp_path: Path, count: int, elastic: bool
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
        process = Running(clone, *WORKER, host=host, **variables(count, elastic, number))
        workers.append((clone, before, process))
    time.sleep(1)
    training = Running(project, *TRAIN, host=first, **variables(count, elastic, 0))
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
    alone: tuple[Project, str], hosts: Make, tmp_path: Path
):
    project, _ = alone
    clone = copy_of(project, tmp_path / "host 1" / "project")
    with (clone.folder / "stages/training/distortion.py").open("a") as file:
        file.write("# another line\n")
    worker = Running(clone, *WORKER, host=hosts("10.9.0.1"), **variables(2, True, 1))
    training = Running(project, *TRAIN, host=hosts("10.9.0.2"), **variables(2, True, 0))
    for process in (worker, training):
        line = process.end(fails=True).splitlines()[-1]
        assert line.startswith(
            "error: 10.9.0.2 and 10.9.0.1 would not compute the same: they differ in "
            "stages/training/distortion.py; bring both to the same commit"
        )


@kills
@pytest.mark.parametrize("whom", ["worker", "first"])
def test_a_host_that_ends_costs_an_epoch(
    alone: tuple[Project, str], hosts: Make, tmp_path: Path, whom: str, attempt: int
):
    project, expected = alone
    clone = copy_of(project, tmp_path / "host 1" / "project")
    first, second = hosts("10.9.0.2"), hosts("10.9.0.10")
    worker = Running(clone, *WORKER, host=second, **variables(2, True, 1))
    training = Running(project, *TRAIN, host=first, **variables(2, True, 0))
    wait_a_while(training, attempt)
    killed, left = (worker, training) if whom == "worker" else (training, worker)
    kill(killed, "all")
    killed.end(fails=None)
    line = left.end(fails=None).splitlines()[-1]
    assert line.startswith("error: another process of the training has ended or does not answer")
    assert "Going on after epoch " in project.run(*TRAIN)
    assert digest(project) == expected


def test_hosts_come_and_go(alone: tuple[Project, str], hosts: Make, tmp_path: Path):
    """One begins alone, a second joins it, is killed, and another takes its place."""
    project, _ = alone
    project.edit("params.yaml", LINES[1][1], LINES[1][1].replace(str(EPOCHS), "40"))
    clone = copy_of(project, tmp_path / "host 1" / "project")
    elastic = {
        "PET_NNODES": "1:3",
        "PET_MAX_RESTARTS": "3",
        "PET_RDZV_ENDPOINT": "10.9.0.2:29400",
        "PET_RDZV_CONF": "last_call_timeout=1",
    }
    training = Running(project, *TRAIN, host=hosts("10.9.0.2"), **elastic)
    training.wait_for("Epoch 2: ")
    for number, address in enumerate(("10.9.0.10", "10.9.0.3"), start=1):
        worker = Running(clone, *WORKER, host=hosts(address), **elastic)
        training.wait_for("Training on 2 processes on 2 hosts", times=number)
        if number == 1:
            kill(worker, "all")
            worker.end(fails=None)
            training.wait_for("Training on 1 process on 1 host", times=2)
    output = training.end()
    worker.end()
    assert "Going on after epoch " in output
    found = digest(project)
    project.run(*TRAIN)
    assert digest(project) == found


@pytest.mark.parametrize("recipe", ["convolutional", "tutorial"])
def test_a_host_that_falls_silent_is_given_up(
    alone: tuple[Project, str], hosts: Make, tmp_path: Path, recipe: str
):
    """Its link goes down: no packet says that it has ended. An idle host hears of nobody, either."""
    project, _ = alone
    project.edit("params.yaml", "recipe: convolutional ", f"recipe: {recipe} ")
    for epochs in (f"epochs: {EPOCHS}\n    batch_size: 64", "epochs: 10\n    batch_size: 32"):
        project.edit("params.yaml", epochs, f"epochs: 2000{epochs[epochs.index(chr(10)) :]}")
    module = "stages/training/parallel.py"
    project.edit(module, "timedelta(minutes=2)", "timedelta(seconds=10)")
    project.edit(module, "SIGN_OF_LIFE = 30", "SIGN_OF_LIFE = 3")
    project.edit("stages/training/meeting.py", "ANSWER = 30", "ANSWER = 10")
    clone = copy_of(project, tmp_path / "host 1" / "project")
    first, second = hosts("10.9.0.2"), hosts("10.9.0.10")
    worker = Running(clone, *WORKER, host=second, **variables(2, True, 1))
    training = Running(project, *TRAIN, host=first, **variables(2, True, 0))
    training.wait_for("Epoch 2: ")
    subprocess.run(["ip", "-netns", second, "link", "set", "eth0", "down"], check=True)
    line = worker.end(fails=True).splitlines()[-1]
    assert line.startswith("error: another process of the training has ended or does not answer")
    if recipe == "convolutional":
        assert training.end(fails=True).splitlines()[-1].startswith("error: another process")
    else:
        training.wait_for("Epoch 100: ")  # it needs nobody
        training.process.terminate()
        training.end(fails=True)


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


def test_the_script_for_slurm_sets_the_variables(tmp_path: Path):
    """By stand-ins for SLURM's commands: a cluster is not at hand."""
    page = (ROOT / "docs/scaling.md").read_text()
    script = page.partition("### SLURM")[2].partition("```bash\n")[2].partition("```")[0]
    show = 'echo "$(basename $0) $* $SLURM_NODEID $PET_NNODES $PET_RDZV_ENDPOINT" >> calls'
    commands = {
        "scontrol": "[ \"$*\" = 'show hostnames node[7-8]' ] && printf 'node7\\nnode8\\n'",
        "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" || exit; done',
        "dvc": show,
        "make": show,
    }
    for name, command in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)
    activate = tmp_path / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "node[7-8]",
        },
        check=True,
    )
    assert (tmp_path / "calls").read_text().splitlines() == [
        "dvc repro 0 2 node7:29400",
        "make worker 1 2 node7:29400",
    ]
