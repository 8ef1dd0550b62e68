"""Which runs are left of a group, and when policies ended some: what the limits on a group go by.

An index beside the attempts, never looked through as a whole. Runs without a group count together, a partition's.
"""

from __future__ import annotations

from bisect import bisect_right, insort

from ..core.standing import HOUR_S
from .attempt import Attempt

Key = tuple[int, str]
"""(partition, group); the group is "" for runs that have none"""


class Groups:
    """Owned by the docket, kept in the order of the log."""

    def __init__(self) -> None:
        self._of: dict[str, Key] = {}
        self._left: dict[Key, dict[str, Attempt]] = {}
        self._prunes: dict[Key, list[float]] = {}

    def join(self, attempt: Attempt) -> None:
        """The attempt is new, was loaded, ended, or told another group."""
        record = attempt.standing.record
        key = (attempt.partition, record.group or "")
        if self._of.get(record.attempt) != key:
            self.leave(attempt)
            self._of[record.attempt] = key
            for time in attempt.standing.prunes:
                insort(self._prunes.setdefault(key, []), time)
        if not record.over or record.state == "finished":
            self._left.setdefault(key, {})[record.attempt] = attempt
        else:
            self._drop(key, record.attempt)

    def leave(self, attempt: Attempt) -> None:
        """The attempt is forgotten, or belongs to another group from now on."""
        name = attempt.standing.record.attempt
        key = self._of.pop(name, None)
        if key is None:
            return
        self._drop(key, name)
        times = self._prunes.get(key, [])
        for time in attempt.standing.prunes:
            if time in times:
                times.remove(time)
        if not times:
            self._prunes.pop(key, None)

    def _drop(self, key: Key, name: str) -> None:
        left = self._left.get(key, {})
        left.pop(name, None)
        if not left:
            self._left.pop(key, None)

    def company(self, attempt: Attempt) -> bool | None:
        """Whether another run of the attempt's group has finished, or goes on and is not about to be ended; None for a run
        without a group."""
        record = attempt.standing.record
        if record.group is None:
            return None
        others = self._left.get((attempt.partition, record.group), {}).values()
        return any(one.standing.record.run != record.run and not one.standing.ending for one in others)

    def prunes(self, attempt: Attempt, time: float) -> int:
        """How many prunes policies sent within the hour before `time`, in the attempt's group."""
        times = self._prunes.get(self._of.get(attempt.standing.record.attempt, (0, "")), [])
        return len(times) - bisect_right(times, time - HOUR_S)

    def pruned(self, attempt: Attempt, time: float) -> None:
        """A policy sent a prune to the attempt at `time`; what is older than an hour counts no more."""
        standing = attempt.standing
        standing.prunes = [*(one for one in standing.prunes if one > time - HOUR_S), time]
        key = self._of.get(standing.record.attempt)
        if key is not None:
            times = self._prunes.setdefault(key, [])
            del times[: bisect_right(times, time - HOUR_S)]
            insort(times, time)

    def clear(self) -> None:
        """Forgets everything."""
        self._of.clear()
        self._left.clear()
        self._prunes.clear()
