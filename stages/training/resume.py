"""What a training that was ended too early left behind, so that the next one goes on from there.

It lies in the user's cache folder: each `dvc exp run --temp` and each job of a queue has a fresh
folder, in which nothing would be found again. Its name is the digest of all that the result
depends on, so another training never takes it up.
"""

import fcntl
import hashlib
import io
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import platformdirs
import torch

DAYS = 30  # after which what nobody has taken up is removed


class Checkpoint:
    """The state of one training after its last whole epoch; one process at a time has it."""

    def __init__(self, facts: dict[str, str]) -> None:
        """Find the checkpoint of the training that depends on `facts`."""
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        folder = Path(platformdirs.user_cache_dir("dvc-image-pipeline"), "checkpoints")
        self._path = folder / f"{digest}.pt"
        self._lock: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_old(folder)
            self._lock = lock(self._path)
        except OSError as error:
            where = error.filename or folder
            print(f"note: no checkpoints are kept: {where}: {error.strerror}")
            return
        if self._lock is None:
            print("note: no checkpoints are kept: the same training runs in another process")

    def load(self) -> bytes | None:
        """Return what was saved, or None; what is damaged is taken for nothing."""
        try:
            if self._lock is None:
                return None
            saved = self._path.read_bytes()
            decode(saved)
        except FileNotFoundError:
            return None
        except Exception:  # what torch makes of a damaged file may end in any
            print(f"note: {self._path} is damaged; training begins anew")
            return None
        return saved

    def save(self, state: dict) -> None:
        """Replace what was saved, whole or not at all."""
        if self._lock is None:
            return
        buffer, temporary = io.BytesIO(), self._path.with_suffix(".tmp")
        torch.save(state, buffer)  # to a file, it would tell of a full disk in words of its own
        try:
            temporary.write_bytes(buffer.getvalue())
            temporary.replace(self._path)
        except OSError as error:
            print(f"note: no checkpoints are kept: {self._path}: {error.strerror}")
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            self.close()

    def remove(self) -> None:
        """Remove what was saved: the training has ended well."""
        if self._lock is not None:
            for path in (self._path, lock_of(self._path)):
                path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Leave it to another process, as the end of this one does."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def decode(saved: bytes) -> dict:
    """Return the state that `Checkpoint.save` was given."""
    return torch.load(io.BytesIO(saved), weights_only=True)


def lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def lock(path: Path) -> int | None:
    """Return a file descriptor that locks a checkpoint until it is closed; None if another has it."""
    file = os.open(lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), os.stat(lock_of(path))):  # noqa: PTH116
            return file
    except (BlockingIOError, FileNotFoundError):  # another has it, or has just removed it
        pass
    except OSError:
        os.close(file)
        raise
    os.close(file)
    return None


def remove_old(folder: Path) -> None:
    """Remove what trainings have left that nobody has gone on with."""
    for path in folder.iterdir():
        files = [path.with_suffix(suffix) for suffix in (".pt", ".tmp", ".lock")]
        with suppress(FileNotFoundError):  # another process removes them, too
            newest = max(file.stat().st_mtime for file in {path, *filter(Path.exists, files)})
            if time.time() - newest < DAYS * 24 * 3600 or (held := lock(files[0])) is None:
                continue
            for file in files:
                file.unlink(missing_ok=True)
            os.close(held)
