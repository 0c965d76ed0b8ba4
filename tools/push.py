"""Send all results to a DVC remote, also those of runs that nobody committed.

`dvc push --run-cache` sends the run-cache's entries, but not the metrics and plots that belong to them,
since `cache: false` leaves these to Git. `dvc repro --pull` restores a run only if it finds them all.
They are in DVC's cache, and DVC has methods to send them, but does not document them.
"""

import argparse
from pathlib import Path

from dvc.exceptions import UploadError
from dvc.repo import Repo

from tools.output import one_line, run_tool


def push(remote: str | None) -> tuple[int, int]:
    """Send the workspace's files, and those of all runs in the run-cache; return how many were sent.

    `remote` None is the default one. The numbers are those of files that it did not have yet, and of
    runs.

    Raises:
        Exception: there is no such remote, it cannot be written, or it takes no run-cache (http).
    """
    with Repo() as repo:
        files = repo.push(remote=remote)
        cache = repo.stage_cache
        runs = [(path.parent.name, path.name) for path in Path(cache.cache_dir).glob("*/*/*")]
        for objects in cache.get_used_objs(runs).values():
            # `dvc gc` may have removed some.
            here = {each for each in objects if repo.cache.local.exists(each.value)}
            result = repo.cloud.push(here, remote=remote)
            if result.failed:
                raise UploadError(len(result.failed))
            files += len(result.transferred)
        # Last, since a run that is listed should have its files. DVC only logs a failure.
        cache.push(remote)
        store = repo.cloud.get_remote_odb(remote, hash_name="md5-dos2unix")
        paths = [store.fs.join(store.path, "runs", key[:2], key, value) for key, value in runs]
        if failed := [path for path in paths if not store.fs.exists(path)]:
            raise UploadError(len(failed))
    return files, len(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("remote", nargs="?", help="a remote of DVC's; default: the default one")
    options = parser.parse_args()
    try:
        files, runs = push(options.remote)
    except Exception as error:  # of DVC, or of the library that reaches the store: any
        parser.exit(2, f"error: {one_line(error)}\n")
    print(f"{files:,} files sent; the remote has the results of {runs:,} runs of stages")


if __name__ == "__main__":
    run_tool(main)
