"""What a policy saved over past runs, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.events import spell
from .replay import Outcome

LOST = 0.01
"""A group that ends with a best worse by more than this share of its size has lost."""
QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


def score(policy: str, groups: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """One line: `compute_saved` is the share of the runs' steps that were not run, `best_trial_cut` the share of groups whose
    best run was ended before it had its best, `groups_losing_more_than_1_percent` the share whose best is worse by more than
    1 % of its size than the best of the whole curves, `loss_of_best` quantiles of that (0: nothing lost)."""
    runs = [one for outcomes in groups.values() for one in outcomes]
    judged = [[one for one in outcomes if not math.isnan(one.best)] for outcomes in groups.values()]
    judged = [outcomes for outcomes in judged if outcomes]
    losses = np.array([loss(outcomes) for outcomes in judged])
    steps = sum(one.steps for one in runs)
    return {
        "policy": policy,
        "runs": len(runs),
        "groups": len(groups),
        "decisions": sum(len(one.decisions) for one in runs),
        "stopped": sum(one.stopped is not None for one in runs),
        "compute_saved": 1 - sum(one.steps_run for one in runs) / steps if steps else 0.0,
        "best_trial_cut": float(np.mean([best_cut(outcomes) for outcomes in judged])) if judged else 0.0,
        "groups_losing_more_than_1_percent": float(np.mean(losses > LOST)) if judged else 0.0,
        "loss_of_best": {f"p{100 * q:g}": _quantile(losses, q) for q in QUANTILES},
    }


def _quantile(losses: np.ndarray[Any, np.dtype[np.float64]], share: float) -> float | str:
    """One of the losses that occurred, as JSON can hold it; 0 where there are none."""
    return spell(float(np.quantile(losses, share, method="higher"))) if len(losses) else 0.0


def loss(outcomes: Sequence[Outcome]) -> float:
    """How much worse the group's best is than that of the whole curves, as a share of its size; infinite where nothing is
    left of a group that had a best."""
    sign = 1.0 if outcomes[0].goal == "min" else -1.0
    whole = min(sign * one.best for one in outcomes)
    left = min((sign * one.best_run for one in outcomes if not math.isnan(one.best_run)), default=math.inf)
    if left <= whole:
        return 0.0
    return (left - whole) / abs(whole) if whole else math.inf


def best_cut(outcomes: Sequence[Outcome]) -> bool:
    """Whether the run with the best value of all was ended before it had it."""
    sign = 1.0 if outcomes[0].goal == "min" else -1.0
    best = min(outcomes, key=lambda one: sign * one.best)
    return best.stopped is not None and best.steps_run < best.best_step


def row(policy: str, one: Outcome) -> dict[str, Any]:
    """One run: where it would have been ended, what was best by then and in all, and how many steps that saves."""
    stopped = one.stopped
    return {
        "policy": policy,
        "run": one.run,
        "attempt": one.attempt,
        "group": one.group,
        "series": one.series,
        "goal": one.goal,
        "stopped_at": None if stopped is None else stopped.step,
        "stopped_by": None if stopped is None else stopped.policy,
        "reason": None if stopped is None else stopped.reason,
        "decision": None if stopped is None else stopped.id,
        "best_before": None if math.isnan(one.best_run) else one.best_run,
        "best_after": None if math.isnan(one.best) else one.best,
        "best_step": one.best_step,
        "steps": one.steps,
        "steps_saved": one.steps - one.steps_run,
        "decisions": len(one.decisions),
    }
