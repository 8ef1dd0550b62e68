"""A file that holds room on the disk, so that decisions and acks can still be recorded when the disk is full."""

from __future__ import annotations

import os
import threading


class Reserve:
    """`path` of `size_bytes`, really allocated; `release` gives the room to the one who may use it."""

    def __init__(self, path: str, size_bytes: int = 8 << 20) -> None:
        self.path, self.size_bytes = path, size_bytes
        self.held = False
        self._lock = threading.Lock()
        self.restore()

    def restore(self) -> bool:
        """Takes the room back if the disk has it to spare (twice the size, else it would come and go)."""
        with self._lock:
            self.held = self.held or self._take()
            return self.held

    def _take(self) -> bool:
        try:
            if os.path.exists(self.path) and os.stat(self.path).st_blocks * 512 >= self.size_bytes:
                return True
            space = os.statvfs(os.path.dirname(self.path))
            if space.f_bavail * space.f_frsize < 2 * self.size_bytes:
                return False
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self.size_bytes)
            finally:
                os.close(fd)
        except OSError:
            self._drop()
            return False
        return True

    def release(self) -> bool:
        """Gives the room free; False where there was none to give."""
        with self._lock:
            self.held = False
            return self._drop()

    def _drop(self) -> bool:
        try:
            os.unlink(self.path)
        except OSError:
            return False
        return True
