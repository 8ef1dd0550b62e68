"""One spool on its way to the log: read, kept once what was read is durable there, read again where it is not."""

from __future__ import annotations

from ..core.errors import CorruptData
from ..core.events import RunEvent
from ..core.ports import Message
from .process import boot_id
from .shipper import Shipper

DIED, REBOOTED = "died", "reboot"


class Delivery:
    """Mutable; belongs to the one thread that reads the spool."""

    def __init__(self, shipper: Shipper) -> None:
        self.shipper = shipper
        self.reader = shipper.reader
        self.identity = shipper.reader.identity
        self.attempt, self.run = shipper.attempt, shipper.run
        self.committed = self.reader.position
        self.dropped = self.reader.told  # a spool may have been full before anybody served it
        self._ended_before = False

    def read(self, now: float) -> list[Message]:
        """The messages of one turn; `now` is monotonic seconds."""
        if self.reader.broken:
            return []
        self._ended_before = self.shipper.ended
        return self.shipper.read(now)

    def keep(self) -> None:
        """What was read is durable: the job may write over it."""
        if self.reader.position != self.committed:
            self.committed = self.reader.position
            self.reader.commit(self.committed)

    def repeat(self, durable: int) -> None:
        """What was read found no place behind position `durable`: read it again."""
        self.reader.rewind(max(self.committed, durable))
        self.shipper.ended = self._ended_before

    def told_of(self, dropped: int) -> None:
        """Somebody knows now that so many points found no room."""
        self.dropped = dropped
        self.reader.tell(dropped)

    @property
    def finished_reading(self) -> bool:
        """Whether nothing is left, or nothing can be had."""
        return self.reader.broken or self.reader.behind == 0

    def closing_event(self, now: float) -> RunEvent | None:
        """What is to be said of an attempt that ended without a word; None if the job said it itself."""
        if self.shipper.ended or self._said_so():
            return None
        rebooted = self.identity.boot_id != boot_id()
        return RunEvent(
            self.run,
            self.attempt,
            "ended",
            now,
            group=self.shipper.group,
            state="lost" if rebooted else "failed",
            ended_by=REBOOTED if rebooted else DIED,
            text="the machine was started anew" if rebooted else "the process ended without a word",
        )

    def _said_so(self) -> bool:
        try:
            return self.reader.ended
        except (CorruptData, OSError):
            return False
