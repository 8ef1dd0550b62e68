"""What a Decision passes before it may reach a job: scope, permission, pending, hold, pause, mode, limits. Each answers
with a reason.

A gate looks only at the decision, at how the attempt and its group stand, and at append times of the log, never at the
wall clock, so that a replay of the log gives the same answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from ..core.events import ACTIONS, Decision, Mode
from ..core.intent import LARGEST_LR, MOST_PARTS, LrIntent
from ..core.standing import HOUR_S, INHERITED, LR_ACTIONS, PERMISSION, Standing
from ..core.surroundings import ALONE, Surroundings

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
    if decision.by is None and decision.action == "prune" and standing.ending:
        return "pending: a prune has no answer yet"
    return None


def hold(decision: Decision, around: Surroundings) -> str | None:
    """Nobody ends a run that a person holds; who wants to, ends the hold first."""
    if decision.action != "prune" or around.held is None:
        return None
    hint = f"; to end the run: smart-tuner unhold {decision.run}" if decision.by is not None else ""
    return f"hold: {around.held.sentence}{hint}"


def pause(decision: Decision, around: Surroundings) -> str | None:
    """What a policy concludes under a pause is not sent. What a job goes on with is no conclusion: a learning rate that
    was changed before the pause stays changed in an attempt that continues."""
    if decision.by is not None or decision.policy == INHERITED or around.paused is None:
        return None
    return f"paused: {around.paused.sentence}"


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
    """The gates in their order; `not_after_s` is how long a decision may wait for its job. `prunes_per_hour` (None: without
    limit) is counted over a group, `min_peer_progress` is a share from 0 to 1."""

    not_after_s: float = 600.0
    decisions_per_hour: int | None = None
    prunes_per_hour: int | None = None
    never_last_of_group: bool = True
    min_peer_progress: float = 0.0

    def __call__(self, decision: Decision, standing: Standing, mode: Mode, around: Surroundings = ALONE) -> Decision:
        """The decision with mode, status, not_after and, for a learning rate, the resolved intent."""
        mode = "observe" if standing.record.said.mode == "observe" and decision.by is None else mode
        decision = msgspec.structs.replace(decision, mode=mode, not_after=decision.time + self.not_after_s)
        if decision.action == "alert":
            return msgspec.structs.replace(decision, status="applied")
        checks: tuple[Gate, ...] = (scope, permission, pending)
        for gate in checks:
            if reason := gate(decision, standing):
                return msgspec.structs.replace(decision, status="refused", refused_by=reason)
        if reason := hold(decision, around):
            return msgspec.structs.replace(decision, status="refused", refused_by=reason)
        if reason := pause(decision, around):
            return msgspec.structs.replace(decision, mode="observe", status="would", refused_by=reason)
        if mode == "observe":
            return msgspec.structs.replace(decision, status="would")
        if reason := rate(self.decisions_per_hour)(decision, standing) or self._group_limit(decision, around):
            return msgspec.structs.replace(decision, status="refused", refused_by=reason)
        if decision.action in LR_ACTIONS:
            try:
                decision = resolve_lr(decision, standing)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                return msgspec.structs.replace(decision, status="refused", refused_by=f"scope: {error}")
        if decision.by is None:
            standing.sent[:] = [*(time for time in standing.sent if time > decision.time - HOUR_S), decision.time]
        return msgspec.structs.replace(decision, status="pending")

    def _group_limit(self, decision: Decision, around: Surroundings) -> str | None:
        """What a group loses to policies is bounded. The key in brackets also names the limit where it is told only once."""
        if decision.action != "prune" or decision.by is not None:
            return None
        group = f"group {decision.group}" if decision.group is not None else "the runs without a group"
        if around.progress is not None and around.progress < self.min_peer_progress:
            here, least = f"{around.progress:.0%}", f"{self.min_peer_progress:.0%}"
            return f"limit: at {here} of its furthest peer's progress, {least} is asked for (limits.min_peer_progress)"
        if self.never_last_of_group and around.company is False:
            return f"limit: no other run of {group} is left (limits.never_last_of_group)"
        if self.prunes_per_hour is not None and around.prunes >= self.prunes_per_hour:
            return f"limit: {self.prunes_per_hour} prunes an hour in {group} (limits.prunes_per_hour)"
        return None


def resolve_lr(decision: Decision, standing: Standing) -> Decision:
    """The change as desired state, resolved from the last applied intent; a person's supersedes what is pending."""
    base = standing.intent
    inherited = decision.policy == INHERITED
    if not inherited:
        decision = msgspec.structs.replace(decision, params=_with_one_name_a_group(decision.params, standing))
    wanted = msgspec.convert(decision.params["intent"], LrIntent) if inherited else _changed(base, decision)
    waiting = standing.pending_lr()
    before = base.revision if waiting is None else int(waiting.params["intent"]["revision"])
    wanted = msgspec.structs.replace(wanted, revision=before + 1)
    return msgspec.structs.replace(decision, params={**decision.params, "intent": wanted.plain()})


def _changed(base: LrIntent, decision: Decision) -> LrIntent:
    changed, params = base, decision.params
    if (floor := params.get("min_lr")) is not None:
        changed = msgspec.structs.replace(changed, min_lr=_number("min_lr", floor, least=0.0))
    optimizer = _name("optimizer", params.get("optimizer"))
    groups = params.get("groups", params.get("group"))
    for one in groups if isinstance(groups, list) else [groups]:
        of = (optimizer, _name("group", one))
        if decision.action == "release-lr":
            changed = changed.released(*of)
        elif decision.action == "scale-lr":
            changed = changed.scaled(_number("scale-lr", params["factor"]), *of)
        else:
            changed = changed.held(_number("set-lr", params["value"]), *of)
    if len(changed.parts) > MOST_PARTS:
        raise ValueError(f"over {MOST_PARTS} learning rates of parts of one job: release some first")
    rates = [one.multiplier if one.hold is None else one.hold for one in changed.rules]
    if decision.action != "release-lr" and not all(0 < rate <= LARGEST_LR for rate in rates):
        raise ValueError(f"{decision.action} leaves no number above 0 and up to {LARGEST_LR:g}")
    return changed


def _with_one_name_a_group(params: dict[str, Any], standing: Standing) -> dict[str, Any]:
    """So that what is said of group 0 and of the group called body, which it is, is said of one."""
    groups = params.get("groups", params.get("group"))
    if groups is None:
        return params
    optimizer = _name("optimizer", params.get("optimizer"))
    called = [_name("group", one) or "" for one in (groups if isinstance(groups, list) else [groups])]
    one_name = list(dict.fromkeys(standing.group_of(optimizer, one) for one in called))
    return {name: value for name, value in params.items() if name not in ("group", "groups")} | {"groups": one_name}


def _number(what: str, said: object, least: float | None = None) -> float:
    """A finite number above 0, or from `least` on; ValueError says what is wrong."""
    number = float(said)  # type: ignore[arg-type]  # what is none raises, and is refused
    if not (number > 0 if least is None else least <= number) or not number < float("inf"):
        raise ValueError(f"{what} wants a number {'above 0' if least is None else f'of at least {least:g}'}, not {number:g}")
    return number


def _name(what: str, said: object) -> str | None:
    if said is None:
        return None
    if not isinstance(said, str | int) or not 0 < len(str(said)) <= 64:
        raise ValueError(f"{what} is a name of 1 to 64 characters or a number, not {said!r}")
    return str(said)
