"""What systemd is told, and what it keeps for us: sd_notify(3) over NOTIFY_SOCKET, the watchdog, the descriptor store.

Written against the protocol as sd_notify(3) documents it; without a manager every call does nothing and says False.
"""

from __future__ import annotations

import array
import os
import re
import socket
from collections.abc import Mapping, Sequence

from ..core.ports import Clock

FD_NAME = re.compile(r"[!-9;-~]{1,255}")
"""ASCII without space, control characters and the colon (FDNAME= of sd_notify(3))."""
FIRST_FD = 3
"""SD_LISTEN_FDS_START."""
SEND_TIMEOUT_S = 1.0
"""A manager whose queue is full holds us no longer than this."""
MAX_FDS = 250
"""SCM_RIGHTS carries at most 253."""


class Notifier:
    """The line to the service manager; silent where there is none. Thread safe: each message is one datagram."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """`address` is NOTIFY_SOCKET: a path, or a name of the abstract namespace behind an @."""
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(SEND_TIMEOUT_S)

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> Notifier:
        """The manager that started process `pid`, if one did. The watchdog is ours only if WATCHDOG_PID says so."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        watchdog_s = int(microseconds) / 1e6 if meant and microseconds.isdigit() and int(microseconds) else None
        return cls(environ.get("NOTIFY_SOCKET", ""), watchdog_s)

    @property
    def listens(self) -> bool:
        """Whether there is a manager."""
        return self._socket is not None

    def send(self, *assignments: str, fds: Sequence[int] = ()) -> bool:
        """One datagram of NAME=value lines; whether it was taken."""
        if self._socket is None:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg(["\n".join(assignments).encode()], rights, 0, self._address)
        except OSError:
            return False
        return True

    def ready(self, status: str = "") -> bool:
        """Start-up, or a reload, is done."""
        return self.send("READY=1", *([f"STATUS={_one_line(status)}"] if status else []))

    def status(self, text: str) -> bool:
        """A line for `systemctl status`."""
        return self.send(f"STATUS={_one_line(text)}")

    def alive(self) -> bool:
        """The watchdog's ping."""
        return self.send("WATCHDOG=1")

    def reloading(self, clock: Clock) -> bool:
        """A reload begins (Type=notify-reload wants the monotonic time with it)."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={int(clock.monotonic() * 1e6)}")

    def stopping(self, status: str = "") -> bool:
        """The end begins."""
        return self.send("STOPPING=1", *([f"STATUS={_one_line(status)}"] if status else []))

    def keep(self, name: str, fds: Sequence[int]) -> bool:
        """Puts descriptors into the store under `name`: the next daemon finds them in `kept`. ValueError: no such name."""
        if not FD_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a descriptor: ASCII, no space, no colon, at most 255")
        if not 0 < len(fds) <= MAX_FDS:
            raise ValueError(f"{len(fds)} descriptors at once: 1 to {MAX_FDS}")
        return self.send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=fds)

    def forget(self, name: str) -> bool:
        """Takes the descriptors of that name out of the store."""
        return self.send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def close(self) -> None:
        """Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def kept(environ: Mapping[str, str], pid: int) -> dict[str, list[int]]:
    """The descriptors that the manager hands over to `pid`, by name; they are close-on-exec from now on."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdigit():
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[int]] = {}
    for i in range(int(count)):
        os.set_inheritable(FIRST_FD + i, False)
        found.setdefault(names[i] if i < len(names) and names[i] else "unknown", []).append(FIRST_FD + i)
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
