"""Conditions joined by `&`, `|` and `~`, and the policy that is put together from them.

A condition is a policy that is asked only whether it would speak, and why. condition_text.py reads what a person writes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from ..core.events import Decision, Goal
from ..core.measures import Mask
from ..core.ports import Policy
from ..core.window import Columns, Evidence, Measure, Subject

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@runtime_checkable
class HoldsBy(Protocol):
    """A policy whose reason says more than its condition: the condition alone as a sentence, None where it does not hold."""

    def holds(self, seen: Evidence) -> str | None: ...


class Condition(Protocol):
    """What holds or does not at each point of a series."""

    @property
    def text(self) -> str:
        """Its one spelling."""

    def leaves(self) -> Iterator[Policy]:
        """The policies that are asked."""

    def mask(self, columns: Columns) -> Mask:
        """True at just those points at which `said` has a sentence."""

    def said(self, seen: Evidence) -> str | None:
        """Why it holds, as a sentence; None where it does not."""


@dataclass(frozen=True)
class Leaf:
    """Whether a policy would speak."""

    policy: Policy
    text: str

    def leaves(self) -> Iterator[Policy]:
        yield self.policy

    def mask(self, columns: Columns) -> Mask:
        screened = self.policy.screen(columns)
        if screened is not None:
            return np.asarray(screened, np.bool_)
        return np.array([self.policy.judge(columns.evidence(i)) is not None for i in range(len(columns))], np.bool_)

    def said(self, seen: Evidence) -> str | None:
        if isinstance(self.policy, HoldsBy):
            return self.policy.holds(seen)
        decision = self.policy.judge(seen)
        return None if decision is None else decision.reason


@dataclass(frozen=True)
class Not:
    """Whether a condition does not hold."""

    inner: Condition

    @property
    def text(self) -> str:
        return f"~{_grouped(self.inner)}"

    def leaves(self) -> Iterator[Policy]:
        yield from self.inner.leaves()

    def mask(self, columns: Columns) -> Mask:
        return ~self.inner.mask(columns)

    def said(self, seen: Evidence) -> str | None:
        return f"{_grouped(self.inner)} does not hold" if self.inner.said(seen) is None else None


@dataclass(frozen=True)
class Joined:
    """Two conditions or more, joined by `&` (all hold) or `|` (one does)."""

    sign: Literal["&", "|"]
    parts: tuple[Condition, ...]

    @property
    def text(self) -> str:
        return f" {self.sign} ".join(one.text if self.sign == "|" else _grouped(one) for one in self.parts)

    def leaves(self) -> Iterator[Policy]:
        for one in self.parts:
            yield from one.leaves()

    def mask(self, columns: Columns) -> Mask:
        join = np.logical_and if self.sign == "&" else np.logical_or
        mask: Mask = join.reduce([one.mask(columns) for one in self.parts])
        return mask

    def said(self, seen: Evidence) -> str | None:
        said = [one.said(seen) for one in self.parts]
        holding = [one for one in said if one is not None]
        if len(holding) < (len(said) if self.sign == "&" else 1):
            return None
        return ", and ".join(holding)


def _grouped(one: Condition) -> str:
    return f"({one.text})" if isinstance(one, Joined) else one.text


@runtime_checkable
class _Orders(Protocol):
    def standing_order(self, monitor: str, goal: Goal) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class Composite(Policy):
    """A policy put together from conditions: it asks for `then` where they hold. Its version is a hash of what is written,
    so that the same rule concludes the same ids wherever and whenever it is read.

    >>> from smarttuner.consumers.policies.patience import Patience
    >>> from smarttuner.consumers.policies.table import evidence
    >>> slow = Leaf(Patience(patience=2), "patience(patience=2)")
    >>> rule = Composite("stuck", Joined("&", (slow, Not(Leaf(Patience(patience=3), "patience(patience=3)")))))
    >>> rule.judge(evidence([3, 2, 2, 2], rule))
    Decision(prune, reason='val_loss no better than 2 for 2 evaluations (best at step 1), and patience(patience=3) does not hold')
    >>> rule.judge(evidence([3, 2, 2, 2, 2], rule)) is None
    True
    """

    name: str
    condition: Condition
    then: Literal["prune", "alert"] = "prune"

    @property
    def version(self) -> int:  # type: ignore[override]  # computed, and never set  # type: ignore[override]  # of what is written, see the class
        versions = ",".join(f"{one.name}@{one.version}" for one in self.condition.leaves())
        return int(hashlib.sha256(f"{self.condition.text} then {self.then} of {versions}".encode()).hexdigest()[:7], 16) + 1

    def measures(self, subject: Subject) -> Sequence[Measure]:
        found = {one.key: one for leaf in self.condition.leaves() for one in leaf.measures(subject)}
        return list(found.values())

    def screen(self, columns: Columns) -> Mask:
        return self.condition.mask(columns)

    def standing_order(self, monitor: str, goal: Goal) -> dict[str, Any] | None:
        """What the job must keep, where one of the conditions asks for the best weights back."""
        if self.then != "prune":
            return None
        orders = (leaf.standing_order(monitor, goal) for leaf in self.condition.leaves() if isinstance(leaf, _Orders))
        return next((order for order in orders if order is not None), None)

    def judge(self, seen: Evidence) -> Decision | None:
        why = self.condition.said(seen)
        if why is None:
            return None
        order = self.standing_order(seen.subject.series, seen.subject.goal)
        params = {"restore": "best"} if order is not None else None
        return seen.decide((self.name, self.version), self.then, why, params, {"when": self.condition.text})
