"""Signals as bytes in a socket: the main thread reads them between two turns, so that no code of ours runs in a handler."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import signal
import socket
from collections.abc import Iterable
from types import FrameType, TracebackType

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WOKEN = 0
"""The byte of `wake`: no signal has this number."""


class Signals:
    """SIGTERM, SIGINT and SIGHUP while the context is open; main thread only. The C handler writes the number into a
    socket whichever thread the signal hits, and a wait on that socket ends at once: nothing is lost between two waits."""

    def __init__(self, heard: Iterable[signal.Signals] = HEARD) -> None:
        self._heard = tuple(heard)
        self._before: dict[signal.Signals, object] = {}
        self._wakeup_before = -1
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)

    def __enter__(self) -> Signals:
        self._wakeup_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for one in self._heard:
            self._before[one] = signal.signal(one, _nothing)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)  # type: ignore[arg-type]  # what signal.signal gave
        signal.set_wakeup_fd(self._wakeup_before)
        self._read.close()
        self._write.close()

    def wait(self, timeout_s: float) -> list[int]:
        """The numbers of the signals that came, in order, after at most `timeout_s`; none on `wake` or when time is up."""
        select.select([self._read], [], [], max(0.0, timeout_s))
        with contextlib.suppress(BlockingIOError):
            return [number for number in self._read.recv(4096) if number in self._heard]
        return []

    def wake(self) -> None:
        """Ends a wait, from any thread."""
        with contextlib.suppress(OSError):
            self._write.send(bytes([WOKEN]))


def _nothing(number: int, frame: FrameType | None) -> None:
    """The signal is in the socket already."""


class Orphans:
    """Children that nobody waits for, which a container's PID 1 inherits. A zombie is taken after `grace_s`: until then
    whoever started it may ask for its exit code."""

    def __init__(self, grace_s: float = 5.0, proc: str = "/proc") -> None:
        self.grace_s = grace_s
        self.reaped = 0
        self._proc = pathlib.Path(proc)
        self._seen: dict[int, float] = {}

    def reap(self, now: float) -> None:
        """Takes those that were zombies for `grace_s` (`now`: monotonic seconds)."""
        zombies = set(self._zombies())
        self._seen = {pid: since for pid, since in self._seen.items() if pid in zombies}
        for pid in zombies:
            if now - self._seen.setdefault(pid, now) >= self.grace_s:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                    self.reaped += 1

    def _zombies(self) -> Iterable[int]:
        parent = str(os.getpid())
        for entry in self._proc.iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    state, above = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
                    if state == "Z" and above == parent:
                        yield int(entry.name)
