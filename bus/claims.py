"""Who may decide about a control partition: the daemon whose claim has the highest epoch, from that claim on."""

from __future__ import annotations

from ..core.events import Claim, Decision

REPEAT_S = 30.0
"""A claim is said again this often, so that a reader who begins BACK_S back has heard it before it obeys."""
BACK_S = 90.0
TEACH_S = BACK_S - REPEAT_S


class Claims:
    """The claims of all partitions of `control`, as a reader hears them in offset order. What was appended before
    `obey_from` (seconds since 1970) only teaches: the claim in force may not have been said again yet.

    It is the highest epoch that counts, not the last claim: a daemon that wakes from a pause may repeat its old one."""

    def __init__(self, obey_from: float = 0.0) -> None:
        self._obey_from = obey_from
        self._epochs: dict[int, int] = {}

    def hear(self, claim: Claim, partition: int) -> None:
        """A claim stands at this place of `partition`; what it says of another one counts for nothing."""
        if claim.partition == partition:
            self._epochs[partition] = max(self._epochs.get(partition, 0), claim.epoch)

    def epoch(self, partition: int) -> int | None:
        """The epoch in force; None before any claim was heard."""
        return self._epochs.get(partition)

    def allow(self, decision: Decision, partition: int, appended: float) -> bool:
        """Whether this decision, read at this place, is to be obeyed."""
        return appended >= self._obey_from and self._epochs.get(partition) == decision.epoch
