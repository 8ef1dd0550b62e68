"""How a lane's consumer becomes durable: the judge through state.db, the metrics store through its own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..consumers.judge import Judge
from ..consumers.metrics_store import MetricsStore
from ..core.ports import EARLIEST, Clock, Message, Partition
from .state import State

SAVE_EVERY_S = 1.0
SAVE_SHARE = 20
"""Without an answer what changed is saved every second, or every 20 times what the last save took."""
SAVE_ATTEMPTS = 32
SAVE_ATTEMPTS_SHARE = 8
"""So many changed attempts are saved earlier, every 8 times what the last save took: a decision waits for the transaction that
saves with it whatever changed before, and a thousand attempts take 100 ms."""
TELL_S = 1.0
"""The group's commit is but a gauge beside the cursor in state.db."""


class JudgeStore:
    """One transaction for windows, latches, cursor and outbox."""

    def __init__(self, judge: Judge, state: State, clock: Clock) -> None:
        self._judge, self._state, self._clock = judge, state, clock
        self._due = self._due_for_many = self._tell_at = 0.0
        self._durable: dict[Partition, int] = {}
        self._wanted: dict[Partition, int] = {}

    def position(self, partition: Partition) -> int | None:
        return self._durable.get(partition, EARLIEST)  # not where the group was: the state may be lost and to be rebuilt

    def reload(self) -> None:
        self._judge.load(*self._state.load())
        self._durable = self._state.positions()
        self._wanted = {}

    def revoke(self, partitions: Sequence[Partition]) -> None:
        """One daemon has all partitions of a local log, and takes them up again where they are durable."""
        self._save(())

    def commit(
        self, answers: Sequence[Message], positions: Mapping[Partition, int], now: float, at_once: bool
    ) -> Mapping[Partition, int] | None:
        self._wanted = dict(positions)
        if not answers and not at_once and not self._is_due():
            return None
        return self._save(answers)

    def _is_due(self) -> bool:
        monotonic = self._clock.monotonic()
        return monotonic >= self._due or (len(self._judge.changed) >= SAVE_ATTEMPTS and monotonic >= self._due_for_many)

    def _save(self, answers: Sequence[Message]) -> Mapping[Partition, int] | None:
        moved = {key: position for key, position in self._wanted.items() if self._durable.get(key) != position}
        attempts, body = self._judge.changes()
        if not (moved or attempts or answers):
            return None
        begun = self._clock.monotonic()
        with self._state.transaction():
            self._state.save(attempts, body)
            self._state.add(answers)
            self._state.advance(moved)
        self._judge.saved()
        self._durable.update(moved)
        ended = self._clock.monotonic()
        self._due = ended + max(SAVE_EVERY_S, SAVE_SHARE * (ended - begun))
        self._due_for_many = ended + SAVE_ATTEMPTS_SHARE * (ended - begun)
        if ended < self._tell_at:
            return None
        self._tell_at = ended + TELL_S
        return dict(self._durable)

    waiting = False
    """What a kill left in the outbox is sent at the start."""

    def unsent(self) -> Sequence[tuple[int, Message]]:
        return self._state.unsent()

    def mark_sent(self, numbers: Sequence[int]) -> None:
        self._state.mark_sent(numbers)

    def finish(self, now: float) -> Mapping[Partition, int] | None:
        self._tell_at = 0.0
        return self._save(())


class PlainStore:
    """For a consumer that remembers nothing: the group's commit is its cursor, answers are sent as they come."""

    def __init__(self) -> None:
        self._out: list[Message] = []

    def position(self, partition: Partition) -> int | None:
        return None

    def reload(self) -> None:
        self._out = []

    def revoke(self, partitions: Sequence[Partition]) -> None:
        """Nothing is remembered."""

    def commit(
        self, answers: Sequence[Message], positions: Mapping[Partition, int], now: float, at_once: bool
    ) -> Mapping[Partition, int] | None:
        self._out += answers
        return positions

    waiting = False

    def unsent(self) -> Sequence[tuple[int, Message]]:
        return list(enumerate(self._out))

    def mark_sent(self, numbers: Sequence[int]) -> None:
        self._out = []

    def finish(self, now: float) -> Mapping[Partition, int] | None:
        return None


class FilesStore(PlainStore):
    """The metrics store's files carry their own cursor."""

    def __init__(self, store: MetricsStore) -> None:
        super().__init__()
        self._store = store

    def position(self, partition: Partition) -> int | None:
        position = self._store.position(partition)
        return EARLIEST if position == 0 else position  # nothing is stored yet, or no more: all that the log has is wanted

    def reload(self) -> None:
        super().reload()
        self._store.reload()

    def revoke(self, partitions: Sequence[Partition]) -> None:
        """See MetricsStore.revoke."""
        self._store.revoke(partitions)

    def commit(
        self, answers: Sequence[Message], positions: Mapping[Partition, int], now: float, at_once: bool
    ) -> Mapping[Partition, int] | None:
        self._out += answers
        if at_once:  # the lane goes record by record and may have set one aside
            self._store.pass_over(positions)
            self._store.flush(now)
        else:
            self._store.tick(now)
        return self._store.committed()

    def finish(self, now: float) -> Mapping[Partition, int] | None:
        self._store.flush(now)
        return self._store.committed()
