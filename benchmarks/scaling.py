"""`python -m benchmarks.scaling`: an epoch on several processes and hosts, and a model of it.

It runs the train stage itself, in copies of the project, and takes the time from one line "Epoch …"
to the next. Hosts are network namespaces (tests/hosts.py): that takes root's rights, and Linux. Each
has one core to itself as long as the machine has enough. benchmarks/scaling.json gets every number,
benchmarks/scaling.md the table that docs/scaling.md quotes.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from benchmarks.bench import Project
from stages.runtime.outputs import all_or_none
from stages.runtime.processes import usable_cores
from stages.runtime.splits import TRAIN, VALIDATION, load_split, save_split
from tests.hosts import network, sent
from tools.machine import machine

HERE = Path(__file__).parent
BATCH, STEPS, EPOCHS = 64, 128, 4  # the first epoch is not counted
VALIDATED = 500

PING = """
import socket, statistics, sys, time
if len(sys.argv) == 1:
    peer, _ = socket.create_server(("10.9.0.2", 5000)).accept()
    while message := peer.recv(1):
        peer.sendall(message)
    sys.exit()
peer = socket.create_connection((sys.argv[1], 5000))
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
times = []
for _ in range(200):
    started = time.perf_counter()
    peer.sendall(b"?")
    peer.recv(1)
    times.append(time.perf_counter() - started)
print(statistics.median(times))
"""


class Setting(NamedTuple):
    """What one row of the table was measured on."""

    shards: int
    recipe: str = "convolutional"
    processes: int = 1  # on one host
    hosts: int = 1
    rate: float | None = None  # bit/s, of each host
    delay: float | None = None  # seconds one way, by the kernel's netem
    cores: int = 1  # of one process


NETWORKS = [(1e10, None), (1e9, None), (1e10, 0.0), (1e10, 0.0005), (1e9, 0.0005)]
SETTINGS = [
    *(Setting(shards, cores=cores) for shards in (2, 4) for cores in (1, 2)),
    *(Setting(shards, processes=processes) for shards, processes in ((2, 2), (4, 2), (4, 4))),
    *(
        Setting(shards, hosts=hosts, rate=rate, delay=delay)
        for shards, hosts in ((2, 2), (4, 2), (4, 3))
        for rate, delay in NETWORKS
    ),
    Setting(2, "thorough"),
    *(Setting(2, "thorough", hosts=2, rate=rate, delay=delay) for rate, delay in NETWORKS),
]
FITTED = [
    setting
    for setting in SETTINGS
    if setting.recipe == "convolutional"
    and setting.cores == setting.processes == 1
    and (setting.hosts == 1 or (setting.rate, setting.delay) == NETWORKS[0])
]
# What a shard sends: 55,546 gradients, 352 means and variances, 2 sums, float32.
ROW = 4 * (55_546 + 352 + 2)


def prepare(folder: Path) -> Path:
    """Make a folder of prepared files with the first images of those of the workspace; return it."""
    folder.mkdir()
    whole = load_split(TRAIN)
    images, labels = whole.images.numpy(), whole.labels.numpy()
    with all_or_none() as outputs:
        for path, first, count in (
            (TRAIN, 0, BATCH * STEPS),
            (VALIDATION, BATCH * STEPS, VALIDATED),
        ):
            indices = np.arange(first, first + count)
            save_split(outputs, folder / path.name, images, labels, whole.dataset, indices)
    return folder


def measure(setting: Setting, folder: Path, images: Path) -> dict:
    """Return the seconds of a step, the bytes that the first host sends for it, the round trip [s]."""
    with ExitStack() as stack:
        hosts = [""]
        if setting.hosts > 1:
            make = stack.enter_context(network(setting.rate, setting.delay))
            hosts = [make(f"10.9.0.{number}") for number in range(2, 2 + setting.hosts)]
        for number, host in reversed(list(enumerate(hosts))):
            project = Project(Path(tempfile.mkdtemp(dir=folder)) / "project")
            project.set("recipe: tutorial ", f"recipe: {setting.recipe} ")
            for epochs in (8, 24):
                project.set(f"    epochs: {epochs}\n", f"    epochs: {EPOCHS}\n")
            project.set("    shards: 2 ", f"    shards: {setting.shards} ")
            shutil.copytree(images, project.folder / TRAIN.parent)
            process = start(setting, number, host, project.folder)
            stack.callback(process.wait)
            stack.callback(process.kill)
        times, counts = [], []
        for line in process.stdout:  # of the first host, which was started last
            if line.startswith("Epoch "):
                times.append(time.perf_counter())
                counts.append(sent(hosts[0]) if hosts[0] else 0)
        if len(times) < EPOCHS:
            sys.exit(f"error: {setting} did not train; run it by hand")
        steps = (EPOCHS - 1) * STEPS
        return {
            "seconds": statistics.median(np.diff(times)) / STEPS,
            "bytes": (counts[-1] - counts[0]) / steps,
            "round_trip": round_trip(*hosts[:2]) if setting.hosts > 1 else 0.0,
        }


def start(setting: Setting, number: int, host: str, folder: Path) -> subprocess.Popen:
    """Start the stage on the first host, a worker on the others."""
    command = [sys.executable, "-m", "stages.train", *(["--worker"] if number else [])]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder.parent)}
    if setting.hosts > 1:
        environment |= {"PET_NNODES": str(setting.hosts), "PET_RDZV_ENDPOINT": "10.9.0.2:29400"}
        command = ["ip", "netns", "exec", host, *command]
    if setting.processes > 1:
        environment |= {"PET_NPROC_PER_NODE": str(setting.processes)}
    else:
        cores = [(number + core) % usable_cores() for core in range(setting.cores)]
        command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE)


def round_trip(first: str, second: str) -> float:
    """Return the seconds that a byte takes from the second host to the first and back."""
    ping = [sys.executable, "-c", PING]
    with subprocess.Popen(["ip", "netns", "exec", first, *ping]):
        time.sleep(0.5)
        return float(subprocess.check_output(["ip", "netns", "exec", second, *ping, "10.9.0.2"]))


def share(setting: Setting) -> list[int]:
    """Return how many shards of a batch each process computes, as `Group.gather` divides them."""
    count = max(setting.processes, setting.hosts)
    each = -(-setting.shards // count)
    return [max(0, min(each, setting.shards - process * each)) for process in range(count)]


def terms(setting: Setting) -> tuple[list[float], float]:
    """Return what multiplies the constants of the model in a setting, and the bits on its wire.

    The constants, in seconds: a shard of 32 images, a shard of 16, what a process does besides in a
    step, what gloo does besides in a round. A core works for all its processes. They form a ring, and
    each hands on what it has got, in one round less than there are processes.
    """
    shards = share(setting)
    cores = [shards[core :: usable_cores()] for core in range(usable_cores())]
    if setting.cores > 1:
        cores = [[-(-setting.shards // setting.cores)]]
    busiest = max(cores, key=lambda work: (sum(work), len(work)))
    rounds = len(shards) - 1
    computed = [float(sum(busiest)), 0.0] if setting.shards == 2 else [0.0, float(sum(busiest))]
    return [*computed, float(len(busiest)), float(rounds)], 8.0 * ROW * shards[0] * rounds


def model(rows: list[tuple[Setting, dict]]) -> tuple[list[float], list[float]]:
    """Return the constants (see `terms`), and the seconds of a step by the model, for each row.

    The constants are those that fit one process, and hosts with a fast network, best. For all other
    rows the rate and the delay are added to them.
    """
    equations, networks = [], []
    for setting, measured in rows:
        each, bits = terms(setting)
        wire = bits / setting.rate if setting.rate else 0.0
        delay = measured["round_trip"] / 2 if setting.delay is not None else 0.0
        equations.append(each)
        networks.append(wire + (setting.hosts - 1) * delay)
    fitted = [row for row, (setting, _) in enumerate(rows) if setting in FITTED]
    computed = [rows[row][1]["seconds"] - networks[row] for row in fitted]
    constants, _ = nnls(np.array(equations)[fitted], np.array(computed))  # none is below 0
    return constants.tolist(), (np.array(equations) @ constants + networks).tolist()


def table(results: dict) -> str:
    """Return the Markdown table of the results."""
    rows = [(Setting(*row["setting"]), row) for row in results["rows"]]
    constants, predicted = model([row for row in rows if row[0].recipe == "convolutional"])
    predicted += [None] * (len(rows) - len(predicted))
    lines = [
        "| recipe | shards | where | network, round trip | ms a step | speed | kB a step | model, ms |",
        "|---|--:|---|---|--:|--:|--:|--:|",
    ]
    for (setting, measured), by_model in zip(rows, predicted, strict=True):
        alone = next(
            row["seconds"] for one, row in rows if one == Setting(setting.shards, setting.recipe)
        )
        where = f"{setting.processes} process{'es' if setting.processes > 1 else ''}"
        where += f" on {max(setting.cores, min(2, setting.processes))} core"
        where += "s" if max(setting.cores, setting.processes) > 1 else ""
        network = ""
        if setting.hosts > 1:
            where = f"{setting.hosts} hosts"
            network = f"{setting.rate / 1e9:.0f} Gb/s, {1e3 * measured['round_trip']:.2f} ms"
        cells = [
            setting.recipe,
            setting.shards,
            where,
            network,
            f"{1e3 * measured['seconds']:.1f}",
            f"{alone / measured['seconds']:.2f}",
            f"{measured['bytes'] / 1e3:.0f}" if measured["bytes"] else "",
            f"{1e3 * by_model:.1f}{' *' if setting in FITTED else ''}" if by_model else "",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    shard_32, shard_16, rest, gloo = (f"{1e3 * constant:.2f} ms" for constant in constants)
    about = results["machine"]
    lines += [
        "",
        f"A step is a batch of {BATCH} images, and its share of validating {VALIDATED} images after "
        f"{STEPS} steps. Medians of {EPOCHS - 1} epochs in each of {results['rounds']} rounds; "
        f"{about['cpu']}, {about['cores']} cores, {results['date']}. The model fits the rows with * "
        f"best with {shard_32} for a shard of 32 images, {shard_16} for one of 16, {rest} for all "
        f"else of a process, {gloo} for a round of gloo.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    found: dict[Setting, list[dict]] = {setting: [] for setting in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        images = prepare(Path(folder) / "images")
        for _ in range(arguments.rounds):
            for setting in SETTINGS:
                found[setting].append(measure(setting, Path(folder), images))
                print(setting, found[setting][-1], file=sys.stderr)
    rows = [
        {"setting": setting}
        | {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for setting, runs in found.items()
    ]
    results = {"machine": machine(), "date": date, "rounds": arguments.rounds, "rows": rows}
    (arguments.output / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    (arguments.output / "scaling.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
