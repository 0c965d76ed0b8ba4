"""`make doctor`: find what a crash or a bad disk has left, and repair it on request (FIX=1).

It checks what DVC cannot repair itself: a broken dvc.lock, locks of processes that have ended,
temporary files of killed stages, and damaged files, in DVC's cache or in the workspace: those whose
checksum is not the one in dvc.lock or in the .dvc file of a data set.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import psutil
from dvc.dvcfile import load_file
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.output import Output
from dvc.repo import Repo
from dvc.rwlock import SCHEMA
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import parse_yaml
from voluptuous import Invalid

from tools.output import one_line, run_tool

LOCK = Path("dvc.lock")
BROKEN = Path(".dvc/tmp/dvc.lock.broken")  # a copy of the broken file
RWLOCK = Path(".dvc/tmp/rwlock")
OUTPUT_FOLDERS = ("data/prepared", "models", "metrics")
CONFLICT = re.compile(rb"^(<<<<<<<|[|]{7}|=======|>>>>>>>)", re.MULTILINE)  # Git's marks
SHALLOW = (
    "note: a shallow clone: DVC keeps no results of `dvc exp run --temp` and of its queue; run "
    "`git fetch --unshallow`"
)
BUSY = "works in this folder; try again when it has ended"


class Fault(NamedTuple):
    description: str
    commands: list[str]  # that repair it
    by_hand: bool = False  # the user decides whether to run them


def broken_lock(repo: Repo) -> Iterator[Fault]:
    """Check that DVC can read dvc.lock. A killed DVC leaves it cut off."""
    if not LOCK.exists():
        return
    content = LOCK.read_bytes()
    if CONFLICT.search(content):
        merging = subprocess.check_output(["git", "ls-files", "--unmerged", "--", LOCK])
        command = "git checkout --ours -- dvc.lock metrics" if merging else f"rm {LOCK}"
        description = f"{LOCK}: a merge has left both sides in it"
        yield Fault(description, [command, "dvc repro"], by_hand=True)
        return
    show = ["git", "show", f"HEAD:./{LOCK}"]
    committed = subprocess.run(show, capture_output=True, check=False).stdout
    restorable = not why_unreadable(committed)
    reason = why_unreadable(content)
    if not reason and restorable and (lost := lost_entries(repo, content, committed)):
        reason = f"cut off: not all of {', '.join(lost)}"
    if reason:
        commands = [f"mv {LOCK} {BROKEN}"]
        if restorable:
            commands.append(f"{shlex.join(show)} > {LOCK}")
        description = f"{LOCK}: broken ({reason}); the runs since the last commit run again"
        yield Fault(description, commands)


def lost_entries(repo: Repo, content: bytes, committed: bytes) -> list[str]:
    """Return the stages of which dvc.lock lacks a section that dvc.yaml and the committed file have.

    A stage or section that is new in dvc.yaml has not run yet; one that was removed has left it.
    """
    try:
        pipeline = load_file(repo, "dvc.yaml").load().get("stages", {})
    except DvcException:  # of a broken dvc.yaml, which `dvc repro` reports
        return []
    stages, lost = parse_lock(content).get("stages", {}), []
    for name, entry in parse_lock(committed).get("stages", {}).items():
        definition = pipeline.get(name.partition("@")[0], {})  # of a stage with foreach: NAME@ITEM
        declared = set(definition.get("do", definition))
        if declared & {"metrics", "plots"}:
            declared.add("outs")
        if declared & entry.keys() - stages.get(name, {}).keys():
            lost.append(name)
    return lost


def why_unreadable(content: bytes) -> str:
    """Return why DVC cannot read such a dvc.lock, in one line; an empty string if it can."""
    try:
        parse_lock(content)
    except Exception as error:  # of the YAML parser, of the encoding, of DVC's schema
        return next(iter(str(error.__cause__ or error).splitlines()), "") or type(error).__name__
    return ""


def parse_lock(content: bytes) -> dict:
    """Return the content of dvc.lock.

    Raises:
        Exception: it is not what DVC writes, or cut off where YAML cannot notice it.
    """
    document = COMPILED_LOCKFILE_SCHEMA(parse_yaml(content.decode(), LOCK))
    stages = document.get("stages", {}).values()
    outs = [out for stage in stages for out in stage.get("outs", [])]
    if not content.endswith(b"\n") or any("md5" not in out or "size" not in out for out in outs):
        raise ValueError("cut off")
    return document


def stale_rwlock() -> Iterator[Fault]:
    """Check DVC's list of the files that its processes use; exit if one of them is running."""
    try:
        locked = SCHEMA(json.loads(RWLOCK.read_text()))
    except FileNotFoundError:
        return
    except (ValueError, Invalid):
        yield Fault(f"{RWLOCK}: broken: `JSON structure is corrupted`", [f"rm {RWLOCK}"])
        return
    holders = {info["pid"]: info["cmd"] for info in chain(*locked["read"].values())}
    holders |= {info["pid"]: info["cmd"] for info in locked["write"].values()}
    for pid, command in holders.items():
        if is_running(pid, RWLOCK):
            sys.exit(f"`{command}`, process {pid}, {BUSY}")
    if holders:
        ended = ", ".join(map(str, sorted(holders)))
        yield Fault(f"{RWLOCK}: held by processes that have ended ({ended})", [f"rm {RWLOCK}"])


def is_running(pid: int, file: Path) -> bool:
    """Whether the process that wrote a file runs: no zombie, and no later process of that number."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= file.stat().st_mtime and process.status() != "zombie"
    except psutil.NoSuchProcess:
        return False


def leftovers() -> Iterator[Fault]:
    """Find temporary files of killed stages, .NAME.PID.tmp, and of a killed DVC, .RANDOM.tmp."""
    files = [
        str(path)
        for folder in OUTPUT_FOLDERS
        for path in sorted(Path(folder).glob(".*.tmp"))
        if (match := re.fullmatch(r"\.(?:.+\.(\d+)|[\w-]{22})\.tmp", path.name)) and path.is_file()
        if not (match[1] and is_running(int(match[1]), path))
    ]
    if files:
        description = f"{len(files)} temporary files of killed stages or of DVC"
        yield Fault(description, [shlex.join(["rm", *files])])


def damaged(repo: Repo) -> Iterator[Fault]:
    """Compare the outputs of stages and `dvc add`, in cache and workspace, with their checksums.

    A file in the workspace that DVC knows to be changed may be someone's work.
    """
    if LOCK.exists() and why_unreadable(LOCK.read_bytes()):
        return
    for out in repo.index.outs:
        if not out.hash_info or out.hash_info.name != "md5" or out.protocol != "local":
            continue  # a stage that has not run, DVC 2, or another machine's file
        unchanged = out.exists and not out.changed_checksum()
        for path, stored, digest in files(out):
            here, in_cache, name = md5(path), md5(stored), os.path.relpath(path)
            bad = [str(stored)] if in_cache not in ("", digest) else []
            only_copy = False
            if here not in ("", digest) and (unchanged or here == in_cache):
                bad.append(name)
                # Without the file, DVC would record the others as the data set.
                only_copy = out.stage.is_data_source and in_cache != digest
            commands = [shlex.join(["rm", "-f", *bad])]
            if bad == [name] and in_cache == digest:
                commands = [shlex.join(["cp", "-f", str(stored), name])]
            if only_copy:
                commands.append(shlex.join(["dvc", "pull", out.stage.relpath]))
            if bad:
                yield Fault(f"{name}: damaged: {' and '.join(bad)}", commands, only_copy)


def files(out: Output) -> Iterator[tuple[Path, Path, str]]:
    """Yield path, object in the cache and MD5 of an output, or of a folder's list and of its files."""
    digest, path = out.hash_info.value, Path(out.fs_path)
    stored = Path(out.cache.oid_to_path(digest))
    digest = digest.removesuffix(".dir")
    yield path, stored, digest
    if out.hash_info.isdir and md5(stored) == digest:
        for entry in json.loads(stored.read_bytes()):
            listed = Path(out.cache.oid_to_path(entry["md5"]))
            yield path / entry["relpath"], listed, entry["md5"]


def md5(path: Path) -> str:
    """Return the MD5 of a file, in hexadecimal; "" if there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def other_locks() -> Iterator[Fault]:
    """Find locks of the default kind, which hold a process number: `hardlink_lock` waits for them."""
    for path in (RWLOCK.with_name("lock"), RWLOCK.with_name("rwlock.lock")):
        pid = path.read_text().strip() if path.is_file() else ""
        if pid.isdecimal():
            if is_running(int(pid), path):
                sys.exit(f"`dvc`, process {pid}, {BUSY}")
            yield Fault(f"{path}: not of the kind that core.hardlink_lock sets", [f"rm {path}"])


def find(repo: Repo) -> Iterator[Fault]:
    """Yield all faults."""
    if repo.config["core"].get("hardlink_lock"):
        yield from other_locks()
    # Each `dvc` holds this lock while it reads or writes its files, but not while a stage runs.
    with repo.lock:
        yield from stale_rwlock()
        yield from broken_lock(repo)
        yield from leftovers()
        yield from damaged(repo)


def check_git(repo: Repo) -> str:
    """Return a note on a shallow clone, or "".

    Exit if Git does not work here, as in a folder of another user: DVC would fail later.
    """
    if repo.config["core"].get("no_scm"):
        return ""
    command = ["git", "rev-parse", "--is-shallow-repository"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"error: Git: {' '.join(result.stderr.split())}")
    return SHALLOW if result.stdout.strip() == "true" else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fix", action="store_true", help="run the commands, too")
    parser.add_argument("--quiet", action="store_true", help="print only faults")
    options = parser.parse_args()
    count = remaining = 0
    if os.access(".dvc", os.F_OK) and not os.access(".dvc", os.W_OK):
        sys.exit("error: .dvc: not writable, as DVC needs it; change that, or clone the repository")
    try:
        repo = Repo()
        if (note := check_git(repo)) and not options.quiet:
            print(note, flush=True)
        for fault in find(repo):
            print(fault.description, flush=True)
            fixing = options.fix and not fault.by_hand
            for command in fault.commands:
                print(f"    {command}", flush=True)
                fixing = fixing and os.system(command) == 0
            count += 1
            remaining += not fixing
    except LockError:
        if remaining:  # locks of the other kind, which this one waits for
            sys.exit(1)
        hint = f"; or, if none is running: rm {RWLOCK.parent}/lock"
        sys.exit(f"another `dvc` {BUSY}{hint if repo.config['core'].get('hardlink_lock') else ''}")
    except (DvcException, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
    if remaining or not options.quiet:
        ending = "Then run `dvc repro`." if remaining else "Repaired; now run `dvc repro`."
        print(ending if count else "Nothing is wrong.")
    sys.exit(1 if remaining else 0)


if __name__ == "__main__":
    run_tool(main)
