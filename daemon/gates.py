"""What a Decision passes before it may reach a job: scope, mode, permission, pending, limits. Each answers with a reason.

A gate looks only at the decision, at how the attempt stands, and at append times of the log, never at the wall clock, so
that a replay of the log gives the same answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from ..core.events import ACTIONS, LARGEST_LR, Decision, LrIntent, Mode
from ..core.standing import LR_ACTIONS, PERMISSION, Standing

HOUR_S = 3600.0
Gate = Callable[[Decision, Standing], str | None]


def scope(decision: Decision, standing: Standing) -> str | None:
    """The attempt is alive and the action is one we know."""
    if decision.action not in ACTIONS:
        return f"scope: unknown action {decision.action}"
    if standing.record.over:
        return f"scope: the attempt is over ({standing.record.state})"
    return None


def permission(decision: Decision, standing: Standing) -> str | None:
    """The job itself allows the action (`allow=` of attach)."""
    said = standing.record.said
    needed = PERMISSION.get(decision.action)
    if needed is not None and said.allow and needed not in said.allow:
        return f"permission: the job does not allow {needed}"
    if decision.by is not None and said.mode == "observe":
        return "mode: the job was attached with mode=observe"
    return None


def pending(decision: Decision, standing: Standing) -> str | None:
    """A policy does not scale a learning rate, or end a run, while the job's answer to the last time is still out."""
    if decision.by is None and decision.action in LR_ACTIONS and standing.pending_lr() is not None:
        return "pending: the last change of the learning rate has no answer yet"
    if decision.by is None and decision.action == "prune" and any(one.action == "prune" for one in standing.pending.values()):
        return "pending: a prune has no answer yet"
    return None


def rate(per_hour: int | None) -> Gate:
    """At most `per_hour` decisions of policies are sent to one attempt in any hour of append time; None is without limit."""

    def limit(decision: Decision, standing: Standing) -> str | None:
        if per_hour is None or decision.by is not None:
            return None
        recent = sum(time > decision.time - HOUR_S for time in standing.sent)
        return f"limit: {per_hour} decisions an hour (limits.decisions_per_hour)" if recent >= per_hour else None

    return limit


@dataclass
class Gates:
    """The gates in their order; `not_after_s` is how long a decision may wait for its job."""

    not_after_s: float = 600.0
    decisions_per_hour: int | None = None

    def __call__(self, decision: Decision, standing: Standing, mode: Mode) -> Decision:
        """The decision with mode, status, not_after and, for a learning rate, the resolved intent."""
        mode = "observe" if standing.record.said.mode == "observe" and decision.by is None else mode
        decision = msgspec.structs.replace(decision, mode=mode, not_after=decision.time + self.not_after_s)
        if decision.action == "alert":
            return msgspec.structs.replace(decision, status="applied")
        checks: tuple[Gate, ...] = (scope, permission, pending)
        for gate in checks:
            if reason := gate(decision, standing):
                return msgspec.structs.replace(decision, status="refused", refused_by=reason)
        if mode == "observe":
            return msgspec.structs.replace(decision, status="would")
        if reason := rate(self.decisions_per_hour)(decision, standing):
            return msgspec.structs.replace(decision, status="refused", refused_by=reason)
        if decision.action in LR_ACTIONS:
            try:
                decision = resolve_lr(decision, standing)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                return msgspec.structs.replace(decision, status="refused", refused_by=f"scope: {error}")
        if decision.by is None:
            standing.sent[:] = [*(time for time in standing.sent if time > decision.time - HOUR_S), decision.time]
        return msgspec.structs.replace(decision, status="pending")


def resolve_lr(decision: Decision, standing: Standing) -> Decision:
    """The change as desired state, resolved from the last applied intent; a person's supersedes what is pending."""
    base = standing.intent
    wanted = _changed(base, decision)
    waiting = standing.pending_lr()
    if waiting is not None:
        wanted = LrIntent(wanted.multiplier, wanted.hold, int(waiting.params["intent"]["revision"]) + 1)
    intent = {"multiplier": wanted.multiplier, "hold": wanted.hold, "revision": wanted.revision}
    return msgspec.structs.replace(decision, params={**decision.params, "intent": intent})


def _changed(base: LrIntent, decision: Decision) -> LrIntent:
    if decision.action == "release-lr":
        return base.released()
    name = "factor" if decision.action == "scale-lr" else "value"
    number = float(decision.params[name])
    if not 0 < number < float("inf"):
        raise ValueError(f"{decision.action} wants a number above 0, not {number:g}")
    changed = base.scaled(number) if decision.action == "scale-lr" else base.held(number)
    if not 0 < (changed.multiplier if changed.hold is None else changed.hold) <= LARGEST_LR:
        raise ValueError(f"{decision.action} {number:g} leaves no number above 0 and up to {LARGEST_LR:g}")
    return changed
