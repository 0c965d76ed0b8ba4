"""The same bytes on any number of processes and hosts, by real torchrun, in real networks.

Hosts are network namespaces, joined by a bridge. Each has an address of its own, and all the same name.
"""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.hosts import Make, NoNetworkError, network
from tests.project import ROOT, Project, Running, copy_of, replace
from tests.samples import set_value

pytestmark = pytest.mark.slow

TRAIN = ("python", "-m", "stages.train")
WORKER = (*TRAIN, "--worker")
WEIGHTS = "models/model_weights.pth"
# KILLS=10: how often each process is killed, at random moments of a longer training.
KILLS = int(os.environ.get("KILLS", "1"))
EPOCHS = 12 if KILLS == 1 else 40
WARMUP = "recipes.convolutional.optimizer.schedule.warmup"


def set_params(project: Project, **changes: object) -> None:
    path = project.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        set_value(params, key, value)
    replace(path, yaml.safe_dump(params))


def lengthen(project: Project) -> None:
    """Set a project to a training that takes some seconds, on four shards."""
    changes = {"recipes.convolutional.epochs": EPOCHS, "recipes.convolutional.shards": 4}
    set_params(project, **{"train.recipe": "convolutional"} | changes)


def digest(project: Project) -> str:
    return hashlib.sha256(project.read(WEIGHTS)).hexdigest()


def checkpoints(project: Project) -> list[Path]:
    return sorted((project.folder.parent / "cache").glob("*/checkpoints/*"))


@pytest.fixture(scope="module")
def trained(on_digits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project that is set to a long training, and the digest of the weights of one process."""
    project = copy_of(on_digits[0], tmp_path_factory.mktemp("trained") / "project")
    lengthen(project)
    project.run(*TRAIN)
    return project, digest(project)


@pytest.fixture
def untrained(trained: tuple[Project, str], tmp_path: Path) -> tuple[Project, str]:
    """That project in a folder of its own, without the weights, and their digest."""
    project = copy_of(trained[0], tmp_path / "Ünsere Bilder é")
    (project.folder / WEIGHTS).unlink()
    return project, trained[1]


@pytest.mark.parametrize("processes", [3, 5])
def test_processes_give_the_bytes_of_one(untrained: tuple[Project, str], processes: int):
    """Also where a process has more of the four shards than another, or none. Others try two."""
    project, expected = untrained
    output = project.run(*TRAIN, PET_NPROC_PER_NODE=str(processes))
    assert digest(project) == expected
    assert f"Training on {processes} process" in output
    assert output.count("Epoch 1: ") == 1
    assert "Warning" not in output
    assert not checkpoints(project)


def test_two_trainings_at_once_do_not_collide(untrained: tuple[Project, str], tmp_path: Path):
    project, expected = untrained
    projects = [project, copy_of(project, tmp_path / "second/project")]
    trainings = [Running(each, *TRAIN, PET_NPROC_PER_NODE="2") for each in projects]
    for training, each in zip(trainings, projects, strict=True):
        training.end()
        assert digest(each) == expected


def test_torchrun_itself_can_start_the_stage(untrained: tuple[Project, str]):
    project, expected = untrained
    torchrun = ("torchrun", "--standalone", "--nproc-per-node=2", "--module", "stages.train")
    assert "Training on 2 processes" in project.run(*torchrun)
    assert digest(project) == expected


def test_a_recipe_of_one_shard_trains_in_each_process(reproduced: Project):
    expected = digest(reproduced)
    output = reproduced.run(*TRAIN, PET_NPROC_PER_NODE="2")
    assert "note: the recipe's `shards` is 1: more processes are no faster" in output
    assert digest(reproduced) == expected


def test_dvc_records_the_same(committed: Project):
    lengthen(committed)  # so that there is something to record
    other = copy_of(committed, committed.folder.parent / "other")
    committed.run("dvc", "repro", "train")
    shutil.rmtree(other.folder / ".dvc/cache/runs")  # it is to run, too
    assert "Training on 2 processes" in other.run("dvc", "repro", "train", PET_NPROC_PER_NODE="2")
    for name in ("dvc.lock", "metrics/train.json", "metrics/epochs.csv"):
        assert committed.read(name) == other.read(name)
    assert committed.git_status() == other.git_status()


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"PET_NPROC_PER_NODE": "many"}, "error: torchrun: ValueError: "),
        ({"PET_NNODES": "two"}, "error: torchrun: ValueError: "),
        (
            {"PET_NNODES": "2", "PET_RDZV_ENDPOINT": "no-such-host.invalid:29400"},
            "error: PET_RDZV_ENDPOINT: no-such-host.invalid: ",
        ),
        (
            {"PET_NNODES": "2", "PET_RDZV_ENDPOINT": "127.0.0.1:29411"}
            | {"PET_RDZV_CONF": "join_timeout=3,is_host=1"},
            "error: torchrun: Rendezvous",
        ),
    ],
)
def test_an_error_of_torchrun_is_one_line(
    untrained: tuple[Project, str], variables: dict[str, str], line: str
):
    project, _ = untrained
    output = project.run(*TRAIN, fails=True, **variables)
    assert output.splitlines()[-1].startswith(line)
    assert "Traceback" not in output
    assert not (project.folder / WEIGHTS).exists()


def test_a_worker_without_a_host_to_help_is_one_line(untrained: tuple[Project, str]):
    output = untrained[0].run(*WORKER, fails=True)
    assert output.startswith("error: PET_NNODES: not set; start `make worker` as PET_NNODES=2 ")


def test_an_error_of_all_processes_is_printed_once(untrained: tuple[Project, str]):
    project, _ = untrained
    (project.folder / "data/prepared/train.safetensors").write_bytes(b"damaged")
    output = project.run(*TRAIN, fails=True, PET_NPROC_PER_NODE="2")
    assert output.count("error: ") == 1
    assert output.splitlines()[-1].startswith("error: data/prepared/train.safetensors: damaged")


kills = pytest.mark.parametrize("attempt", range(KILLS))


def wait_a_while(process: Running, attempt: int) -> None:
    """Wait until a moment after the second epoch, another one in each attempt."""
    rng = random.Random(attempt)
    process.wait_for(f"Epoch {rng.randint(2, EPOCHS // 2 + 1)}: ")
    time.sleep(rng.random() / 2)


def kill(process: Running, target: str) -> None:
    if target == "all":
        for pid in process.children():
            os.kill(pid, signal.SIGKILL)
        process.process.kill()
    elif target == "parent":
        process.process.kill()
    else:
        os.kill(process.children()[int(target)], signal.SIGKILL)


@kills
@pytest.mark.parametrize(
    ("processes", "target"), [(0, "all"), (2, "0"), (2, "1"), (2, "parent"), (2, "all")]
)
def test_a_killed_training_resumes_with_the_same_bytes(
    untrained: tuple[Project, str], processes: int, target: str, attempt: int
):
    project, expected = untrained
    variables = {"PET_NPROC_PER_NODE": str(processes)} if processes else {}
    training = Running(project, *TRAIN, **variables)
    wait_a_while(training, attempt)
    kill(training, target)
    output = training.end(fails=None)
    if target in "01":
        assert "was ended by SIGKILL" in output.splitlines()[-1]
        assert output.count("error: ") == 1
    time.sleep(3)  # by then, processes that have lost their parent have ended
    assert not processes_in(project)
    assert not (project.folder / WEIGHTS).exists()
    output = project.run(*TRAIN)
    assert "Resuming after epoch " in output
    assert "Epoch 2: " not in output
    assert digest(project) == expected
    assert not checkpoints(project)


def processes_in(project: Project) -> list[int]:
    """Return the processes whose current folder is the project's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if path.readlink() == project.folder:
                found.append(int(path.parent.name))
    return found


def test_nothing_survives_a_killed_dvc_and_the_next_run_waits_for_its_end(
    untrained: tuple[Project, str],
):
    project, expected = untrained
    training = Running(project, "dvc", "repro", "train", PET_NPROC_PER_NODE="2")
    training.wait_for("Epoch 2: ")
    training.process.kill()
    training.process.wait()
    output = project.run(*TRAIN)  # at once: the lock is never free
    assert "Resuming after epoch " in output
    assert digest(project) == expected
    assert not processes_in(project)


def test_another_training_never_uses_a_checkpoint(untrained: tuple[Project, str]):
    project, expected = untrained
    training = Running(project, *TRAIN)
    training.wait_for("Epoch 2: ")
    set_params(project, **{WARMUP: 0.1})
    assert "changed from 0.15 to 0.1 while train was running" in training.end(fails=True)
    assert "Resuming" not in project.run(*TRAIN)
    set_params(project, **{WARMUP: 0.15})
    assert "Resuming after epoch 2" in project.run(*TRAIN)  # an undone edit costs nothing
    assert digest(project) == expected


def test_the_group_restarts_after_the_death_of_a_process(untrained: tuple[Project, str]):
    project, expected = untrained
    training = Running(project, *TRAIN, PET_NPROC_PER_NODE="2", PET_MAX_RESTARTS="2")
    training.wait_for("Epoch 2: ")
    kill(training, "1")
    assert "Resuming after epoch " in training.end()
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


def variables(hosts: int, static: bool = False, rank: int = 0) -> dict[str, str]:
    """Return the variables of a host, for either rendezvous of torchrun."""
    if not static:
        return {"PET_NNODES": str(hosts), "PET_RDZV_ENDPOINT": "10.9.0.2:29400"}
    return {
        "PET_NNODES": str(hosts),
        "PET_MASTER_ADDR": "10.9.0.2",
        "PET_MASTER_PORT": "29400",
        "PET_NODE_RANK": str(rank),
    }


@pytest.mark.parametrize(("count", "static"), [(2, False), (2, True), (3, False)])
def test_hosts_give_the_bytes_of_one(
    untrained: tuple[Project, str], hosts: Make, tmp_path: Path, count: int, static: bool
):
    """The workers start first. One sorts before the host of the stage: 10.9.0.10 and 10.9.0.2."""
    project, expected = untrained
    first = hosts("10.9.0.2")
    workers = []
    for number in range(1, count):
        clone = copy_of(project, tmp_path / f"host {number}" / "project")
        clone.folder.parent.joinpath("cache").mkdir()
        before = state_of(clone)
        host = hosts(f"10.9.0.1{number - 1}")
        process = Running(clone, *WORKER, host=host, **variables(count, static, number))
        workers.append((clone, before, process))
    time.sleep(1)
    training = Running(project, *TRAIN, host=first, **variables(count, static))
    output = training.end()
    assert f"Training on {count} processes" in output
    assert digest(project) == expected
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


def test_other_code_is_refused_on_both_sides(
    untrained: tuple[Project, str], hosts: Make, tmp_path: Path
):
    project, _ = untrained
    clone = copy_of(project, tmp_path / "host 1" / "project")
    with (clone.folder / "stages/training/losses.py").open("a") as file:
        file.write("# another line\n")
    worker = Running(clone, *WORKER, host=hosts("10.9.0.1"), **variables(2))
    training = Running(project, *TRAIN, host=hosts("10.9.0.2"), **variables(2))
    for process in (worker, training):
        line = process.end(fails=True).splitlines()[-1]
        assert line.startswith(
            "error: 10.9.0.2 and 10.9.0.1 would not compute the same: they differ in "
            "stages/training/losses.py; bring both to the same commit"
        )


@kills
@pytest.mark.parametrize("target", ["worker", "first"])
def test_the_death_of_a_host_costs_an_epoch(
    untrained: tuple[Project, str], hosts: Make, tmp_path: Path, target: str, attempt: int
):
    project, expected = untrained
    clone = copy_of(project, tmp_path / "host 1" / "project")
    first, second = hosts("10.9.0.2"), hosts("10.9.0.10")
    worker = Running(clone, *WORKER, host=second, **variables(2))
    training = Running(project, *TRAIN, host=first, **variables(2))
    wait_a_while(training, attempt)
    killed, survivor = (worker, training) if target == "worker" else (training, worker)
    kill(killed, "all")
    killed.end(fails=None)
    line = survivor.end(fails=True).splitlines()[-1]
    assert line.startswith(
        ("error: another process of the training", "error: torchrun: Rendezvous")
    )
    assert "Resuming after epoch " in project.run(*TRAIN)
    assert digest(project) == expected


def test_a_silent_host_ends_the_training(
    untrained: tuple[Project, str], hosts: Make, tmp_path: Path
):
    """Its link goes down: no packet reports its end."""
    project, _ = untrained
    set_params(project, **{"recipes.convolutional.epochs": 2000})
    project.edit("stages/training/parallel.py", "timedelta(minutes=2)", "timedelta(seconds=10)")
    clone = copy_of(project, tmp_path / "host 1" / "project")
    first, second = hosts("10.9.0.2"), hosts("10.9.0.10")
    worker = Running(clone, *WORKER, host=second, **variables(2))
    training = Running(project, *TRAIN, host=first, **variables(2))
    training.wait_for("Epoch 2: ")
    subprocess.run(["ip", "-netns", second, "link", "set", "eth0", "down"], check=True)
    line = training.end(fails=True).splitlines()[-1]
    assert line.startswith("error: another process of the training has ended or does not answer")
    worker.process.kill()  # torchrun waits there until TCP gives up
    worker.process.wait()


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
