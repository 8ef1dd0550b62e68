"""Of each policy that was only let conclude: how often acting would have been right, what it would have saved and cost."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ..core.events import spell
from .aliases import ALIASES, Aliases
from .hindsight import Hindsight, Lookback
from .score import LOST

FEW_RUNS = 20
"""Below so many ended runs a share says little."""
_Z = 1.959964
"""Of the normal distribution: 95 % lie within."""


def track_record(
    folder: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], aliases: Aliases = ALIASES
) -> list[dict[str, Any]]:
    """A line a policy and action, of the decisions in `rows` (as of `decisions --json`) whose status is `would`.

    Of the prunes of a policy only the first of each attempt counts, since acting would have ended it there. `ended` counts
    those whose attempt is over and whose points are stored, `unknown` those without; the rest of the line is of `ended`.
    """
    would = [row for row in rows if row["status"] == "would"]
    seen = Hindsight(folder, would, aliases)
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in would:
        kinds.setdefault((row["policy"], row["action"]), []).append(row)
    return [_line(*kind, kinds[kind], seen) for kind in sorted(kinds)]


def _line(policy: str, action: str, rows: Sequence[Mapping[str, Any]], seen: Hindsight) -> dict[str, Any]:
    """Of a learning rate's change it is right that nothing better came soon without it; a run's end is `_prunes`."""
    counted = {row["attempt"]: row for row in reversed(rows)}.values() if action == "prune" else rows
    found = [one for row in counted if (one := seen.lookback(row)) is not None and one.ended]
    ended = [one for one in found if one.known]
    if action == "scale-lr":
        ended = [one for one in ended if one.moment.followed]
    line = {
        "policy": policy,
        "action": action,
        "decisions": len(rows),
        "runs": len({row["run"] for row in rows}),
        "ended": len(ended),
        "unknown": sum(not one.known for one in found),
    }
    if action == "scale-lr":
        line |= _rightness([one.moment.soon >= one.before for one in ended])
    elif action == "prune":
        line |= _rightness([one.lost <= LOST for one in ended]) | _prunes(ended, seen)
    return line


def _rightness(right: Sequence[bool]) -> dict[str, Any]:
    count = sum(right)
    caution = None
    if len(right) < FEW_RUNS:
        caution = f"{len(right)} ended so far: too few to rely on, {FEW_RUNS} or more say something"
    return {"right": count, "right_interval": list(wilson(count, len(right))) if right else None, "caution": caution}


def _prunes(ended: Sequence[Lookback], seen: Hindsight) -> dict[str, Any]:
    """`share_saved` is of the steps of these runs; a group's loss is that of all its prunes together."""
    groups: dict[tuple[str, str, str], list[Lookback]] = {}
    for one in ended:
        if one.run["group"] is not None:
            groups.setdefault((one.run["group"], one.series, one.moment.goal), []).append(one)
    lost = [one.lost for one in ended]
    steps = sum(max(0, one.curve.steps) for one in ended)
    saved = sum(one.steps_saved for one in ended)
    return {
        "steps_saved": saved,
        "share_saved": saved / steps if steps else 0.0,
        "hours_saved": sum(one.seconds_saved for one in ended) / 3600,
        "runs_worse": sum(one > LOST for one in lost),
        "groups": len(groups),
        "groups_worse": sum((seen.group_lost(pruned) or 0.0) > LOST for pruned in groups.values()),
        "loss_median": spell(median(lost)) if lost else 0.0,
        "loss_worst": spell(max(lost, default=0.0)),
    }


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `right` of `of` (at least 1) were seen (Wilson 1927, eq. 4 in Brown, Cai and
    DasGupta 2001, "Interval estimation for a binomial proportion").

    >>> [round(bound, 3) for bound in wilson(9, 10)]
    [0.596, 0.982]
    """
    share, z2 = right / of, _Z * _Z
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return max(0.0, middle - half), min(1.0, middle + half)
