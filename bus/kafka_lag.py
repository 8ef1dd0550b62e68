"""How far the groups are behind, asked of a broker that may not answer: `status` does not wait for it."""

from __future__ import annotations

import threading

from ..core.errors import SmartTunerError
from ..core.ports import Partition
from .kafka_topics import Clerk

PATIENCE_S = 2.5
"""A question waits so long for an answer. Whoever asks a daemon for its status gives it 5 s in all."""


class Gauge:
    """Thread safe. One question is under way at a time; while it is unanswered, everybody gets what was known last."""

    def __init__(self, clerk: Clerk) -> None:
        self._clerk = clerk
        self._lags: dict[str, dict[Partition, int]] = {}
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None

    def known(self) -> dict[str, dict[Partition, int]]:
        """By group, as it was last."""
        return self._lags.copy()

    def lag(self, group: str) -> dict[Partition, int]:
        """As it is now; after PATIENCE_S, and while an earlier question is unanswered, as it was last."""
        with self._lock:
            if self._asking is None or not self._asking.is_alive():
                self._asking = threading.Thread(target=self._ask, args=(group,), name="kafka-lag", daemon=True)
                self._asking.start()
                self._asking.join(PATIENCE_S)
        return self._lags.get(group, {})

    def _ask(self, group: str) -> None:
        try:
            commits = self._clerk.committed(group)
            ends = self._clerk.ends(commits)
        except SmartTunerError:
            return
        self._lags = {**self._lags, group: {p: max(0, ends[p] - at) for p, at in commits.items()}}
