"""Who may decide about a control partition: the daemon whose claim has the highest epoch, from that claim on."""

from __future__ import annotations

from ..core.events import Claim, Decision

REPEAT_S = 30.0
"""A claim is said again this often, so that a reader who begins BACK_S back has heard it before it obeys."""
BACK_S = 90.0
TEACH_S = BACK_S - REPEAT_S


class Claims:
    """The claims of partitions of `control`, as a reader hears them in offset order.

    It is the highest epoch that counts, not the last claim: a daemon that wakes from a pause may repeat its old one."""

    def __init__(self) -> None:
        self._obey_from: dict[int, float] = {}
        self._epochs: dict[int, int] = {}

    def begin(self, partition: int, now: float) -> float:
        """A reader begins with a partition at `now` (seconds since 1970): the append time to read from. The first of it only
        teaches: the claim in force may not have been said again yet."""
        self._epochs.pop(partition, None)
        self._obey_from[partition] = now - TEACH_S
        return now - BACK_S

    def hear(self, claim: Claim, partition: int) -> None:
        """A claim stands at this place of `partition`; what it says of another one counts for nothing."""
        if claim.partition == partition:
            self._epochs[partition] = max(self._epochs.get(partition, 0), claim.epoch)

    def epoch(self, partition: int) -> int | None:
        """The epoch in force; None before any claim was heard."""
        return self._epochs.get(partition)

    def allow(self, decision: Decision, partition: int, appended: float) -> bool:
        """Whether this decision, read at this place, is to be obeyed."""
        return appended >= self._obey_from.get(partition, 0.0) and self._epochs.get(partition) == decision.epoch
