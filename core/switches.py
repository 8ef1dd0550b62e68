"""Pause and hold: what a person has switched off, for one run or for all, until they or the time they named switch it on.

They belong to a partition of the log: each copy of a request is folded into the order of its own partition, so that what is
judged there depends on that log alone. A switch is in force from the append time of its request until its end by append
time, whether or not anybody has noticed the end yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from .clock import rfc3339
from .standing import FOREVER

Kind = Literal["pause", "hold"]
ENDS: Mapping[str, Kind] = {"resume": "pause", "unhold": "hold"}
SWITCHING = ("pause", "resume", "hold", "unhold")
"""What a Request may ask for that is no decision about an attempt."""
ALL = "*"
"""Stands for every run; no run can be called so."""
MOST_SWITCHES = 10_000
"""Of one partition; what is over it is refused, not forgotten."""
MAX_REASON_CHARACTERS = 500
LONGEST_S = 10 * 365 * 86_400.0
"""Of a switch that ends by itself."""
_HEARD_KEPT = 256


def wrong_length(length_s: object) -> str:
    """What is wrong with the `for_s` that somebody asked for; "" if nothing is, None is without end."""
    number = isinstance(length_s, int | float) and not isinstance(length_s, bool)
    if length_s is None or (number and 0 < float(length_s) <= LONGEST_S):  # type: ignore[arg-type]  # it is a number
        return ""
    return f"for_s is {length_s!r}, not a number of seconds up to ten years"


class Switch(msgspec.Struct, frozen=True):
    """One pause or hold in force. `since` and `until` (seconds since 1970, infinity for none) are append times of the log;
    `copied` says that another partition has the request too, and tells people of it; `key` belongs to the partition."""

    kind: Kind
    run: str
    by: str
    since: float
    until: float
    reason: str
    request: str
    copied: bool = False
    key: str = ""

    def at(self, time: float) -> bool:
        """Whether it is in force at this append time."""
        return self.since <= time < self.until

    @property
    def sentence(self) -> str:
        """Who switched what, since when, until when and why."""
        done = "paused" if self.kind == "pause" else "held"
        what = "all runs" if self.run == ALL else "this run"
        end = "" if self.until == FOREVER else f" until {_second(self.until)}"
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.by} {done} {what} at {_second(self.since)}{end}{why}"

    def plain(self) -> dict[str, Any]:
        """As `status` shows it."""
        return {
            "kind": self.kind,
            "run": None if self.run == ALL else self.run,
            "by": self.by,
            "since": rfc3339(self.since),
            "until": None if self.until == FOREVER else rfc3339(self.until),
            "reason": self.reason,
        }


def _second(time: float) -> str:
    return rfc3339(time)[:19] + "Z"


class Switches:
    """What is switched off in each partition. Changed by the judge alone, in the order of the log; any thread may ask."""

    def __init__(self) -> None:
        self._on: dict[int, dict[tuple[str, str], Switch]] = {}
        self._heard: OrderedDict[tuple[int, str], None] = OrderedDict()

    def find(self, partition: int, kind: Kind, run: str) -> Switch | None:
        """The very switch of this run (or of ALL), in force or past its end and not noticed yet."""
        return self._on.get(partition, {}).get((kind, run))

    def over(self, partition: int, kind: Kind, run: str, time: float) -> Switch | None:
        """What holds a run of the partition back at an append time: its own switch or that of all, the one that ends last."""
        own, everyone = self.find(partition, kind, run), self.find(partition, kind, ALL)
        found = [one for one in (own, everyone) if one is not None and one.at(time)]
        return max(found, key=lambda one: one.until, default=None)

    def add(self, partition: int, switch: Switch) -> bool:
        """Switches off, instead of an earlier one of the same run; False where there are too many."""
        known = self._on.setdefault(partition, {})
        if (switch.kind, switch.run) not in known and len(known) >= MOST_SWITCHES:
            return False
        known[switch.kind, switch.run] = switch
        return True

    def remove(self, partition: int, kind: Kind, run: str) -> Switch | None:
        """Switches on again; what was in force."""
        return self._on.get(partition, {}).pop((kind, run), None)

    def ended(self, partition: int, time: float) -> list[Switch]:
        """Those whose end is at or before `time`, by (end, kind, run); they are removed."""
        known = self._on.get(partition, {})
        over = sorted((one for one in known.values() if one.until <= time), key=lambda one: (one.until, one.kind, one.run))
        for one in over:
            del known[one.kind, one.run]
        return over

    def ends(self, partition: int) -> list[float]:
        """When those that have an end come to it."""
        return [one.until for one in self._on.get(partition, {}).values() if one.until != FOREVER]

    def hear(self, partition: int, request: str) -> None:
        """The request is folded in this partition."""
        self._heard[partition, request] = None
        if len(self._heard) > _HEARD_KEPT:
            self._heard.popitem(last=False)

    def heard(self, request: str) -> set[int]:
        """The partitions in which the request was folded lately."""
        return {partition for partition, name in list(self._heard) if name == request}

    def now(self, time: float) -> list[Switch]:
        """Each switch in force once, though several partitions have it; those of all runs first."""
        found: dict[tuple[str, str], Switch] = {}
        for partition in list(self._on):
            for key, one in list(self._on[partition].items()):
                if time < one.until:
                    found.setdefault(key, one)
        return sorted(found.values(), key=lambda one: (one.run != ALL, one.run, one.kind))

    # -- state -----------------------------------------------------------------------------------------------------

    def partitions(self) -> Iterator[int]:
        """Those in which something is switched off."""
        return (partition for partition, known in self._on.items() if known)

    def dump(self, partition: int) -> bytes:
        """The state of one partition as msgpack; b"" where nothing is switched off."""
        known = self._on.get(partition)
        return msgspec.msgpack.encode(list(known.values())) if known else b""

    def load(self, partition: int, body: bytes) -> None:
        """Takes the state that `dump` gave instead of what is there."""
        switches = msgspec.msgpack.decode(body, type=list[Switch]) if body else []
        self._on[partition] = {(one.kind, one.run): one for one in switches}

    def drop(self, partition: int) -> None:
        """The partition is another daemon's now."""
        self._on.pop(partition, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._on.clear()
        self._heard.clear()
