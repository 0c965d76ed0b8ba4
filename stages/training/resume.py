"""The checkpoint of an interrupted training, from which the next one resumes.

It is in the user's cache folder, since each `dvc exp run --temp` and each job of a queue has a fresh
folder. Its name is the digest of everything that the result depends on, so another training never
resumes from it. Two processes that run the same training write the same checkpoints.
"""

import hashlib
import io
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import platformdirs
import torch

DAYS = 30  # after which abandoned checkpoints are removed
DIGEST = (
    32  # bytes of a SHA-256: the zip file of torch.save has checksums, but torch.load ignores them
)


class Checkpoint:
    """The state of one training after its last whole epoch."""

    def __init__(self, fingerprint: dict[str, str]) -> None:
        digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
        folder = Path(platformdirs.user_cache_dir("dvc-image-pipeline"), "checkpoints")
        self._path = folder / f"{digest}.pt"
        self._kept = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_abandoned(folder)
        except OSError as error:
            self._give_up(error)

    def load(self) -> bytes | None:
        """Return the content of the checkpoint for `decode`, or None; discard a damaged one."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        digest, state = content[:DIGEST], content[DIGEST:]
        if digest == hashlib.sha256(state).digest():
            return state
        print(f"note: {self._path} is damaged; the training starts from the beginning")
        return None

    def save(self, state: dict) -> None:
        """Replace the checkpoint, whole or not at all."""
        if not self._kept:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            temporary.replace(self._path)
        except OSError as error:
            self._give_up(error)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the checkpoint: the training has succeeded."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _give_up(self, error: OSError) -> None:
        self._kept = False
        print(f"note: no checkpoints are kept: {error.filename or self._path}: {error.strerror}")


def decode(content: bytes) -> dict:
    """Return the state that `Checkpoint.save` was given."""
    return torch.load(io.BytesIO(content), weights_only=True)


def remove_abandoned(folder: Path) -> None:
    """Remove old checkpoints from which no training has resumed."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process removes them, too
            if time.time() - path.stat().st_mtime > DAYS * 24 * 3600:
                path.unlink()
