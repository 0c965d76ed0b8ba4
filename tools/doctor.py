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
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from filecmp import cmp
from pathlib import Path
from typing import NamedTuple

import psutil

LOCK = Path("dvc.lock")
BROKEN = Path(".dvc/tmp/dvc.lock.broken")  # where a broken one is kept
RWLOCK = Path(".dvc/tmp/rwlock")
WRITTEN = ("data/prepared", "models", "metrics")
CONFLICT = re.compile(rb"^(<<<<<<<|[|]{7}|=======|>>>>>>>)", re.MULTILINE)  # Git's marks
SITE_CACHE = "core.site_cache_dir"
BUSY = "works in this folder; try again when it has ended"


class Fault(NamedTuple):
    what: str
    commands: list[str]  # that mend it
    by_hand: bool = False  # only to be told: somebody has to decide


def broken_lock() -> Iterator[Fault]:
    """Look whether DVC can read dvc.lock; DVC does not write it whole or not at all."""
    if not LOCK.exists():
        return
    content = LOCK.read_bytes()
    if CONFLICT.search(content):
        merging = subprocess.check_output(["git", "ls-files", "--unmerged", "--", LOCK])
        commands = ["git checkout --ours -- dvc.lock metrics"] if merging else [f"rm {LOCK}"]
        what = f"{LOCK}: a merge has left both sides in it"
        yield Fault(what, [*commands, "dvc repro"], by_hand=True)
    elif reason := why_unreadable(content):
        committed = subprocess.run(
            ["git", "show", f"HEAD:./{LOCK}"], capture_output=True, check=False
        )
        commands = [f"mv {LOCK} {BROKEN}"]
        if committed.returncode == 0 and not why_unreadable(committed.stdout):
            commands.append(f"git show HEAD:./{LOCK} > {LOCK}")
        what = f"{LOCK}: broken ({reason}); the runs since the last commit run again"
        yield Fault(what, commands)


def why_unreadable(content: bytes) -> str:
    """Return in one line why DVC cannot read such a dvc.lock; nothing if it can."""
    try:
        parse_lock(content)
    except Exception as error:  # of YAML, of the characters, of DVC's schema
        return next(iter(str(error.__cause__ or error).splitlines()), "") or type(error).__name__
    return ""


def parse_lock(content: bytes) -> dict:
    """Return what a dvc.lock holds, read as DVC reads it; its errors are of many kinds."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml

    return COMPILED_LOCKFILE_SCHEMA(parse_yaml(content.decode(), LOCK))


def stale_rwlock() -> Iterator[Fault]:
    """Look for a lock of DVC's whose processes are gone; DVC removes some of them itself."""
    holders = rwlock_holders()
    if holders is None:
        yield Fault(f"{RWLOCK}: broken: DVC says `JSON structure is corrupted`", [f"rm {RWLOCK}"])
    elif holders:  # none is at work: see `who_works`
        numbers = ", ".join(map(str, sorted(holders)))
        yield Fault(f"{RWLOCK}: held by processes that have ended ({numbers})", [f"rm {RWLOCK}"])


def rwlock_holders() -> dict[int, str] | None:
    """Return the processes that DVC's lock of files names, and their commands; None if it is broken."""
    try:
        content = json.loads(RWLOCK.read_text())
        holders = list(content.get("write", {}).values())
        holders += [info for infos in content.get("read", {}).values() for info in infos]
        return {int(info["pid"]): str(info["cmd"]) for info in holders}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def who_works() -> str:
    """Return the command and the process of a `dvc` that is at work in this folder, if there is one."""
    for pid, command in (rwlock_holders() or {}).items():
        try:
            # A later process may have the number of one that is gone.
            if psutil.Process(pid).create_time() <= RWLOCK.stat().st_mtime:
                return f"`{command}`, process {pid},"
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue
    return ""


def running_stages() -> Iterator[Fault]:
    """Look for stages that still run; `dvc repro` waits for them."""
    if not is_stage_running():
        return
    here = str(Path.cwd())
    found = {
        str(process.pid): part.removeprefix("stages.")
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == here
        for part in process.info["cmdline"] or ()
        if re.fullmatch(r"stages\.[a-z]+", part)
    }
    names, pids = " and ".join(sorted(set(found.values()))), " or ".join(found)
    yield Fault(
        f"{names or 'a stage'} still runs, in process {pids or 'of another user'}; the next run waits "
        "for it",
        [f"kill {' '.join(found)}"] if found else [],
        by_hand=True,
    )


def is_stage_running() -> bool:
    """Say whether a process holds the lock of the frame around the stages."""
    folder = os.open("stages", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(folder)
    return False


def leftovers() -> Iterator[Fault]:
    """Look for temporary files that killed stages have left: .NAME.PROCESS.tmp."""
    if is_stage_running():
        return
    found = [
        str(path)
        for folder in WRITTEN
        for path in sorted(Path(folder).glob(".*.tmp"))
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name) and path.is_file()
    ]
    if found:
        commands = [shlex.join(["rm", "-f", *found])]
        yield Fault(f"{len(found)} temporary files of stages that were killed", commands)


def damaged() -> Iterator[Fault]:
    """Compare the files of the last run with the checksums in dvc.lock, in DVC's cache and here.

    A file here is removed only if it is a copy of a damaged one in the cache: any other may be
    somebody's work.
    """
    if is_stage_running():
        return
    try:
        stages = parse_lock(LOCK.read_bytes())["stages"].values()
    except Exception:  # it is missing, or `broken_lock` has told of it
        return
    cache = Path(ask_dvc("cache", "dir"), "files", "md5")
    for out in (out for stage in stages for out in stage.get("outs", [])):
        path, digest = Path(out["path"]), out["md5"].removesuffix(".dir")
        stored = cache / digest[:2] / out["md5"][2:]
        # As large as it should be: else it was changed, which DVC sees, too.
        suspect = path.is_file() and path.stat().st_size == out["size"] and md5(path) != digest
        if stored.is_file() and md5(stored) != digest:
            bad = [str(stored)] + ([str(path)] if suspect and cmp(stored, path, False) else [])
            what = f"{path}: not what {LOCK} says: {' and '.join(bad)}"
            yield Fault(what, [shlex.join(["rm", "-f", *bad])])
        elif suspect:
            yield Fault(
                f"{path}: changed since the last `dvc repro`, by a bad disk if by nobody else",
                [shlex.join(["rm", str(path)]), shlex.join(["dvc", "checkout", str(path)])],
                by_hand=True,
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

    from dvc.lock import LockError, make_lock

    RWLOCK.parent.mkdir(exist_ok=True)
    try:
        # As each `dvc` does while it reads or writes its files; not while a stage runs.
        with make_lock(f"{RWLOCK.parent}/lock", friendly=True):
            if worker := who_works():
                sys.exit(f"{worker} {BUSY}")
            left = look(checks, arguments.fix, quiet=arguments.quick)
    except LockError:
        sys.exit(f"another `dvc` {BUSY}")
    sys.exit(1 if left and not arguments.quick else 0)


def look(checks: list[Callable[[], Iterator[Fault]]], mend: bool, quiet: bool) -> int:
    """Print what the checks find, and mend it if asked to; return how many faults are left."""
    found = left = 0
    for fault in (fault for check in checks for fault in check()):
        print(fault.what, flush=True)
        mending = mend and not fault.by_hand
        for command in fault.commands:
            print(f"    {command}", flush=True)
            if mending and subprocess.run(command, shell=True, check=False).returncode:
                mending = False
        found += 1
        left += not mending
    if not quiet:
        ending = "Then run `dvc repro`." if left else "Mended; now run `dvc repro`."
        print(ending if found else "Nothing is wrong.")
    return left


if __name__ == "__main__":
    main()
