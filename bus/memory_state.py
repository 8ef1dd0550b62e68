"""The state log in memory: the twin of the compacted topic, for tests and simulation."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence


class MemoryStateLog:
    """See core.ports.StateLog. Thread safe."""

    def __init__(self) -> None:
        self._entries: dict[int, list[tuple[str, bytes | None]]] = {}
        self._lock = threading.Lock()

    def read(self, partition: int) -> Sequence[tuple[str, bytes | None]]:
        """All entries in the order in which they were written."""
        with self._lock:
            return list(self._entries.get(partition, ()))

    def write(self, entries: Mapping[int, Sequence[tuple[str, bytes | None]]]) -> None:
        """Appends to each partition in order."""
        for partition, several in entries.items():
            with self._lock:
                self._entries.setdefault(partition, []).extend(several)

    def compact(self, partition: int, before: int) -> None:
        """Keeps the last entry of each key among the first `before` ones, as the broker does with what is older than
        `min.compaction.lag.ms`: a younger entry takes no older one of its key away yet."""
        with self._lock:
            entries = self._entries.get(partition, [])
            last = {key: number for number, (key, _) in enumerate(entries[:before])}
            self._entries[partition] = [one for number, one in enumerate(entries) if number >= before or last[one[0]] == number]

    def close(self) -> None:
        """Nothing to let go of."""
