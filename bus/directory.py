"""A data directory: on a disk of this machine, and with one owner, by a lock that the kernel gives back however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from ..core.errors import ConfigError, SmartTunerError, Unavailable
from . import filesystem


class InUse(SmartTunerError):
    """Another process (or another part of this one) has the folder open."""


def require_local(folder: str, what: str, remote: Callable[[str], str | None] = filesystem.remote) -> None:
    """ConfigError where `folder` lies (or would lie) on a network or user-space file system; `what` says whose data."""
    there = os.path.abspath(folder)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    kind = remote(there)
    if kind is not None:
        raise ConfigError(
            f"{folder}: {what} cannot lie on {kind}, where locks and shared memory are not to be trusted",
            "choose a folder on a disk of this machine: --data-dir or SMART_TUNER_DATA_DIR",
        )


class DirectoryLock:
    """Holds `<folder>/<name>` locked until `release` or the end of the process; the file names the holder's pid."""

    def __init__(self, folder: str, name: str, what: str) -> None:
        self.path = os.path.join(folder, name)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(
                f"{self.path}: {error.strerror}", "make the folder writable or choose another data directory"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise InUse(
                f"{folder}: {what} is already open in process {holder}",
                f"stop that one (kill {holder}) or give this one another --data-dir",
            ) from error
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:  # a full disk: the lock holds all the same, only the pid is missing
            pass

    def release(self) -> None:
        """Gives the folder free. Idempotent. The file stays: to unlink it would let two hold 'the' lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
