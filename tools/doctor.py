"""`make doctor`: find what a crash or a bad disk has left, and mend it where FIX=1 asks for it.

DVC's own commands cannot be taught other messages, so what they stumble over is looked for here: a
broken dvc.lock, a lock of a process that is gone, a stage that outlived its `dvc repro`, temporary
files, files of the last run, in the cache or in the workspace, that are not what dvc.lock says, and a
site cache of DVC's that others may enter.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

LOCK = Path("dvc.lock")
RWLOCK = Path(".dvc/tmp/rwlock")
STAGES = ("prepare", "train", "evaluate", "export")
WRITTEN = ("data/prepared", "models", "metrics")
SITE_CACHE = "core.site_cache_dir"
SECOND_LOOK = 0.5  # seconds: a `dvc` at work may be half-way through writing a file


class Fault(NamedTuple):
    what: str
    commands: list[str]  # that mend it
    by_hand: bool = False  # only to be told: somebody has to decide


def broken_lock() -> Iterator[Fault]:
    """Look whether DVC can read dvc.lock; DVC does not write it whole or not at all."""
    if not LOCK.exists():
        return
    text = LOCK.read_bytes()
    if b"<<<<<<< " in text:
        commands = ["git checkout --ours -- dvc.lock metrics", "dvc repro"]
        yield Fault(f"{LOCK}: a merge has left both sides in it", commands, by_hand=True)
        return
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA

    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(text))
    except Exception as error:  # of YAML, of the characters, of DVC's schema
        reason = (str(error).splitlines() or [""])[0]
        committed = subprocess.run(
            ["git", "cat-file", "-e", f"HEAD:./{LOCK}"], capture_output=True, check=False
        )
        in_git = committed.returncode == 0
        commands = [f"git show HEAD:./{LOCK} > {LOCK}" if in_git else f"rm {LOCK}"]
        yield Fault(
            f"{LOCK}: broken ({reason}); the runs since the last commit run again", commands
        )


def stale_rwlock() -> Iterator[Fault]:
    """Look for a lock of DVC's whose processes are gone; DVC removes some of them itself."""
    try:
        content = json.loads(RWLOCK.read_text())
        holders = list(content.get("write", {}).values())
        holders += [info for infos in content.get("read", {}).values() for info in infos]
        pids = {int(info["pid"]) for info in holders}
    except FileNotFoundError:
        return
    except (ValueError, TypeError, AttributeError, KeyError):
        yield Fault(f"{RWLOCK}: broken: DVC says `JSON structure is corrupted`", [f"rm {RWLOCK}"])
        return
    if pids and not any(is_dvc(pid) for pid in pids):
        numbers = ", ".join(map(str, sorted(pids)))
        yield Fault(f"{RWLOCK}: of processes that are gone ({numbers})", [f"rm {RWLOCK}"])


def is_dvc(pid: int) -> bool:
    try:
        return any("dvc" in part for part in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def running_stages() -> Iterator[Fault]:
    """Look for stages that still run; `dvc repro` waits for them."""
    for stage in STAGES:
        if is_running(stage):
            pids = [
                str(process.pid)
                for process in psutil.process_iter(["cmdline"])
                if f"stages.{stage}" in (process.info["cmdline"] or ())
            ]
            yield Fault(
                f"{stage} still runs, in process {' or '.join(pids) or 'of another user'}; the next "
                "run waits for it",
                [f"kill {' '.join(pids)}"] if pids else [],
                by_hand=True,
            )


def is_running(stage: str) -> bool:
    """Say whether a process holds the lock of the frame around a stage."""
    with Path(f"stages/{stage}.py").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def leftovers() -> Iterator[Fault]:
    """Look for temporary files that killed stages have left."""
    if any(map(is_running, STAGES)):
        return
    found = [path for folder in WRITTEN for path in sorted(Path(folder).glob(".*.tmp"))]
    if found:
        commands = [shlex.join(["rm", *map(str, found)])]
        yield Fault(f"{len(found)} temporary files of stages that were killed", commands)


def damaged() -> Iterator[Fault]:
    """Compare the files of the last run with the checksums in dvc.lock, in DVC's cache and here."""
    try:
        stages = yaml.safe_load(LOCK.read_bytes())["stages"].values()
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return
    cache = Path(ask_dvc("cache", "dir"), "files", "md5")
    for out in (out for stage in stages for out in stage.get("outs", [])):
        path, digest = Path(out["path"]), out["md5"]
        stored = cache / digest[:2] / digest[2:]
        bad = [str(stored)] if stored.is_file() and md5(stored) != digest else []
        # As large as it should be: else somebody has changed it, which DVC sees, too.
        if path.is_file() and path.stat().st_size == out["size"] and md5(path) != digest:
            bad.append(str(path))
        if bad:
            yield Fault(
                f"{path}: not what {LOCK} says, {' and '.join(bad)}",
                [shlex.join(["rm", "-f", *bad])],
            )


def open_site_cache() -> Iterator[Fault]:
    """Look whether anybody else may enter the site cache that tools/site_cache.sh has made.

    DVC runs what the pickles in it say (SECURITY.md), so one that was open is made anew. A missing one
    DVC would make for everybody. A place that the user has set is the user's.
    """
    place, make = ask_dvc("config", SITE_CACHE), "sh tools/site_cache.sh"
    if not place and not os.environ.get("DVC_SITE_CACHE_DIR"):
        yield Fault(f"{SITE_CACHE}: not set; every user may change what DVC believes there", [make])
    if not place.endswith(("/.dvc/site-cache", "/dvc-image-pipeline/site-cache")):
        return
    try:
        found = Path(place).lstat()
    except FileNotFoundError:
        yield Fault(f"{place}: missing; DVC would make it for every user", [make])
        return
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid() or mode & 0o077:
        yield Fault(
            f"{place}: of user {found.st_uid}, mode {mode:o}; only you may enter it (SECURITY.md)",
            [shlex.join(["rm", "-rf", place]), make],
            by_hand=os.geteuid() not in (0, found.st_uid),
        )


def ask_dvc(*arguments: str) -> str:
    answer = subprocess.run(["dvc", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"error: `{shlex.join(['dvc', *arguments])}` fails: {answer.stderr.strip()}")
    return answer.stdout.strip()


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fix", action="store_true", help="run the commands, too")
    parser.add_argument("--quick", action="store_true", help="do not compare checksums")
    arguments = parser.parse_args()
    checks = [broken_lock, stale_rwlock, running_stages, leftovers]
    if not arguments.quick:
        checks += [damaged, open_site_cache]
    faults = left = 0
    for check in checks:
        found = list(check())
        if found and check in (broken_lock, stale_rwlock):
            time.sleep(SECOND_LOOK)
            found = list(check())
        for fault in found:
            faults += 1
            print(fault.what)
            mend = arguments.fix and not fault.by_hand
            left += not mend
            for command in fault.commands:
                print(f"    {command}", flush=True)
                if mend:
                    subprocess.run(command, shell=True, check=True)
    if faults and not arguments.quick:
        print("Then run `dvc repro`." if left else "Mended; now run `dvc repro`.")
    elif not faults and not arguments.quick:
        print("Nothing is wrong.")
    sys.exit(1 if left and not arguments.quick else 0)


if __name__ == "__main__":
    main()
