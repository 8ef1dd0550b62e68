"""How one attempt stands with the daemon: what was decided about it, what is pending, which learning rate is wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from .events import Decision, decode_as, encode
from .intent import LrIntent
from .run import RunRecord

LR_ACTIONS = ("scale-lr", "set-lr", "release-lr")
PERMISSION = {
    "scale-lr": "lr",
    "set-lr": "lr",
    "release-lr": "lr",
    "checkpoint": "checkpoint",
    "restore": "restore",
    "prune": "prune",
    "keep-best": "restore",
}
FOREVER = float("inf")
HOUR_S = 3600.0
INHERITED = "resume"
"""The policy of a change that an attempt takes over from the one it goes on from."""


class _Stored(msgspec.Struct, frozen=True):
    """What a person or a job may have put in (tags, config, params) stands as JSON: msgpack has no whole numbers beyond 64
    bits, and a job's configuration may (a seed, a hash)."""

    record: bytes
    intent: LrIntent
    pending: dict[str, bytes]
    latches: dict[str, float | str]
    known: list[str]
    sent: list[float]
    silenced: dict[str, str] = {}
    prunes: list[float] = []
    limited: dict[str, str] = {}


@dataclass
class Standing:
    """Mutable, owned by the judge; gates read it and the judge writes it, both in the order of the log.

    `latches[policy/action]` is the time until which that policy is silent about the attempt (infinity: for good).
    `known` are the ids already decided, so that a repetition adds nothing; `sent` the append times of what policies sent
    in the last hour, `prunes` those of prunes. `silenced` names the latches that a switch has set, and its kind: they fall
    with it; `limited` those that a limit on the group has set, and the limit: it is told once.
    """

    record: RunRecord
    intent: LrIntent = field(default_factory=LrIntent)
    pending: dict[str, Decision] = field(default_factory=dict)
    latches: dict[str, float] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    sent: list[float] = field(default_factory=list)
    silenced: dict[str, str] = field(default_factory=dict)
    prunes: list[float] = field(default_factory=list)
    limited: dict[str, str] = field(default_factory=dict)

    def pending_lr(self) -> Decision | None:
        """The learning rate decision that waits for the job's answer, the latest if a person superseded one."""
        waiting = [one for one in self.pending.values() if one.action in LR_ACTIONS]
        return waiting[-1] if waiting else None

    @property
    def ending(self) -> bool:
        """Whether a prune waits for the job's answer."""
        return any(one.action == "prune" for one in self.pending.values())

    def group_of(self, optimizer: str | None, said: str) -> str:
        """The one name by which the rate of a parameter group is known: a number becomes the name that the job gave to the
        group of that number, where this is no other group's."""
        if not said.isdecimal():
            return said
        named = [names for key, names in self.record.said.groups.items() if optimizer in (None, key)]
        found = {names[int(said)] for names in named if int(said) < len(names)}
        name = next(iter(found)) if len(found) == 1 else ""
        of_it = {number for names in named for number, one in enumerate(names) if one == name}
        return name if name and not name.isdecimal() and of_it == {int(said)} else said

    def inherited(self, parent: Standing | None) -> tuple[str, dict[str, Any]] | None:
        """The change (action, params) that brings the attempt to the learning rate that its parent ended with; None where
        there is none to bring. What the job has put in force itself, from its own journal, needs no change."""
        said = self.record.said.lr
        if said is not None and said.fits:
            self.intent = said
        if parent is None or parent.record.run != self.record.run:
            return None
        old = parent.intent
        if old.same_rates(self.intent) or old.revision <= self.intent.revision:
            return None
        action, name, number = ("set-lr", "value", old.hold) if old.hold is not None else ("scale-lr", "factor", old.multiplier)
        return action, {name: number, "intent": old.plain(), "inherited": True}

    def dump(self) -> dict[str, Any]:
        """The state as plain values (msgpack)."""
        latches: dict[str, float | str] = {key: ("forever" if until == FOREVER else until) for key, until in self.latches.items()}
        pending = {key: encode(one) for key, one in self.pending.items()}
        known = sorted(self.known)
        more = (self.sent, self.silenced, self.prunes, self.limited)
        stored = _Stored(msgspec.json.encode(self.record), self.intent, pending, latches, known, *more)
        plain: dict[str, Any] = msgspec.to_builtins(stored, builtin_types=(bytes,))
        return plain

    @classmethod
    def load(cls, plain: dict[str, Any]) -> Standing:
        """The state that `dump` gave."""
        stored = msgspec.convert(plain, _Stored)
        record = msgspec.json.decode(stored.record, type=RunRecord)
        pending = {key: decode_as(body, Decision) for key, body in stored.pending.items()}
        latches = {key: (FOREVER if until == "forever" else float(until)) for key, until in stored.latches.items()}
        more = (stored.sent, stored.silenced, stored.prunes, stored.limited)
        return cls(record, stored.intent, pending, latches, set(stored.known), *more)
