"""The learning rate that is wanted of an attempt, as desired state: one rate for all, and other ones for parts of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

LARGEST_LR = 1e30
"""Of a held rate and of a multiplier: torch divides a rate by bias corrections and raises where a float32 cannot hold it."""
MOST_PARTS = 12
"""Of one intent: it must fit into a slot of the control page."""


class Rate(NamedTuple):
    """`hold` against the schedule if set, else `multiplier` times whatever the schedule gives."""

    multiplier: float = 1.0
    hold: float | None = None

    @property
    def fits(self) -> bool:
        """Whether an optimizer bears it: not negative, no NaN, nothing at which torch raises."""
        return 0 <= self.multiplier <= LARGEST_LR and (self.hold is None or 0 <= self.hold <= LARGEST_LR)


class LrPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rate of one optimizer, of one of its groups, or of the groups of that name in every optimizer. None is any."""

    optimizer: str | None = None
    group: str | None = None
    multiplier: float = 1.0
    hold: float | None = None

    @property
    def rate(self) -> Rate:
        """The rate that is wanted of it."""
        return Rate(self.multiplier, self.hold)

    def covers(self, other: LrPart) -> bool:
        """Whether all of `other` belongs to this part."""
        return self.optimizer in (None, other.optimizer) and self.group in (None, other.group)

    def shared(self, other: LrPart, rate: Rate) -> LrPart | None:
        """What belongs to both, with this rate; None where nothing does."""
        if self.optimizer != other.optimizer and None not in (self.optimizer, other.optimizer):
            return None
        if self.group != other.group and None not in (self.group, other.group):
            return None
        return LrPart(self.optimizer or other.optimizer, self.group or other.group, *rate)


class LrIntent(msgspec.Struct, frozen=True):
    """`hold` against the schedule if set, else `multiplier` times whatever the schedule gives, never below `min_lr` where
    the schedule is not below it itself. Of the `parts` that a group belongs to, the last one's rate stands instead.
    `revision` counts the changes of one attempt."""

    multiplier: float = 1.0
    hold: float | None = None
    revision: int = 0
    parts: tuple[LrPart, ...] = ()
    min_lr: float = 0.0

    @property
    def unchanged(self) -> bool:
        """Whether it is the user's own schedule."""
        return all(one.rate == Rate() for one in self.rules)

    @property
    def rules(self) -> tuple[LrPart, ...]:
        """All rates, the one for everything first."""
        return (LrPart(None, None, self.multiplier, self.hold), *self.parts)

    @property
    def fits(self) -> bool:
        """Whether it can be put in force."""
        return 0 <= self.min_lr <= LARGEST_LR and len(self.parts) <= MOST_PARTS and all(one.rate.fits for one in self.rules)

    def rate(self, optimizer: str, *names: str) -> Rate:
        """What is wanted of a group of `optimizer` that goes by `names`."""
        found = (one for one in reversed(self.rules) if one.optimizer in (None, optimizer) and one.group in (None, *names))
        return next(found).rate

    def scaled(self, factor: float, optimizer: str | None = None, group: str | None = None) -> LrIntent:
        """scale-lr: multiplies the hold where one is set, else the multiplier."""

        def change(rate: Rate) -> Rate:
            if rate.hold is not None:
                return Rate(rate.multiplier, rate.hold * factor)
            return Rate(rate.multiplier * factor)

        return self._changed(change, LrPart(optimizer, group))

    def held(self, value: float, optimizer: str | None = None, group: str | None = None) -> LrIntent:
        """set-lr: `value` against the schedule until it is released."""
        return self._changed(lambda rate: Rate(rate.multiplier, value), LrPart(optimizer, group))

    def released(self, optimizer: str | None = None, group: str | None = None) -> LrIntent:
        """release-lr: the user's own schedule again."""
        return self._changed(lambda rate: Rate(), LrPart(optimizer, group))

    def same_rates(self, other: LrIntent) -> bool:
        """Whether both want the same, whatever their revisions."""
        return msgspec.structs.replace(self, revision=0) == msgspec.structs.replace(other, revision=0)

    def __str__(self) -> str:
        said = [
            f"{'/'.join(filter(None, (one.optimizer, one.group))) or 'all'} "
            + (f"held at {one.hold:g}" if one.hold is not None else f"times {one.multiplier:g}")
            for one in self.rules
        ]
        return ", ".join(said) if self.parts else said[0].removeprefix("all ")

    def plain(self) -> dict[str, object]:
        """As it travels in a decision's params."""
        said: dict[str, object] = {"multiplier": self.multiplier, "hold": self.hold, "revision": self.revision}
        if self.parts:
            said["parts"] = msgspec.to_builtins(self.parts)
        return said | ({"min_lr": self.min_lr} if self.min_lr else {})

    def _changed(self, change: Callable[[Rate], Rate], of: LrPart) -> LrIntent:
        """Every rate within `of` changed, whichever rule it stands in; the rest as it is."""
        rules = list(self.rules)
        for rule in self.rules:
            within = rule.shared(of, change(rule.rate))
            if within is not None:
                rules.append(within)
        base, *parts = _simplest(rules)
        return LrIntent(base.multiplier, base.hold, self.revision + 1, tuple(parts), self.min_lr)


def _simplest(rules: list[LrPart]) -> list[LrPart]:
    """Without the rules that a later one covers, and without those that say what held already."""
    kept: list[LrPart] = []
    for rule in rules:
        kept = [one for one in kept if not rule.covers(one)]
        before = next((one for one in reversed(kept) if one.shared(rule, one.rate) is not None), None)
        if before is None or not before.covers(rule) or before.rate != rule.rate:
            kept.append(rule)
    return kept
