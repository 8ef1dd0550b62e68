"""One attempt as the edge sees it: its spool, its process, its line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ..bus.delivery import Delivery
from ..bus.shipper import Shipper
from ..bus.spool_file import is_running
from ..bus.vigil import Vigil
from ..core.ports import Message
from .edge_limits import Allowance
from .edge_line import Line

PROCESS_GONE, HUNG_UP = "died", "hung up"
LIVELY_CALLS = 3
"""Within one rest of the bell. A job that logs less often is heard sooner by its bell than by looking again."""


class Stream(Delivery):
    """Belongs to the edge's thread. `path` is set where the daemon's own user's folder holds the spool.

    `ending` says why the attempt is over ("" while it is not); what is left of the spool is read first.
    """

    def __init__(self, shipper: Shipper, uid: int, allowances: Iterable[Allowance]) -> None:
        super().__init__(shipper)
        self.uid = uid
        self.allowances = tuple(allowances)
        self.path: str | None = None
        self.line: Line | None = None
        self.pidfd = -1
        self.kept = False
        self.ending = ""
        self.silent_since: float | None = None
        self.arm_after = 0.0
        self.calls_before = 0
        """So many calls of log() were read when the bell's rest began."""
        self.due: float | None = None
        self.behind = 0
        self.vigil: Vigil | None = None

    def read(self, now: float) -> list[Message]:
        """The messages of one turn."""
        points = self.shipper.points
        try:
            return super().read(now)
        finally:
            for one in self.allowances:
                one.take(self.shipper.points - points, now)

    def rest(self, until: float) -> None:
        """Leaves the bell alone `until` then."""
        self.arm_after, self.calls_before = until, self.shipper.calls

    def rests(self, now: float, rest_s: float) -> bool:
        """Whether the bell is left alone. Its rest begins anew where the job has logged so often meanwhile that it would ring at
        once, up to the last look: one that finds nothing ends it."""
        if 0.0 < self.arm_after <= now and self.shipper.calls - self.calls_before >= LIVELY_CALLS:
            self.rest(now + rest_s)
        return now < self.arm_after

    def wait_s(self, now: float) -> float:
        """How long its allowances make it wait."""
        return max((one.wait_s(now) for one in self.allowances), default=0.0)

    def remove_file(self, folders: Iterable[str]) -> bool:
        """Unlinks a drained spool from one of the daemon's own user's `folders` once its process is dead; whether it did."""
        try:
            path = self.path or os.readlink(f"/proc/self/fd/{self.reader.fd}")
            if os.path.dirname(path) not in folders or is_running(self.identity) is not False:
                return False
            if not os.path.samestat(os.lstat(path), os.fstat(self.reader.fd)):
                return False
            os.unlink(path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Lets go of spool and process. Idempotent."""
        self.reader.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def told(self) -> dict[str, Any]:
        """For status."""
        state = "damaged" if self.reader.broken else "ending" if self.ending else "connected" if self.line else "unconnected"
        return {
            "run": self.run,
            "attempt": self.attempt,
            "group": self.shipper.group,
            "uid": self.uid,
            "pid": self.identity.pid,
            "state": state,
            "behind_bytes": self.behind,
            "points": self.shipper.points,
            "points_dropped": self.dropped,
        }
