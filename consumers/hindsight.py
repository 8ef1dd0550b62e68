"""What came of the runs about which something was only concluded (`would`): was it right? Computed when it is read, from the
points that are stored of just those runs and their groups, in one pass over the files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..core.events import Goal
from ..core.window import Floats, Ints
from .aliases import ALIASES, Aliases
from .arrow_columns import rows_of, values_of
from .parquet_files import METRICS_SCHEMA, RUNS_SCHEMA
from .past_curve import SIGN, Curve, Moment, share_lost
from .reading import asked_for, kinds, may_hold, of_those, stored_rows
from .store_url import read_each
from .summaries import batches

_RUNS = ["run", "attempt", "group", "state", "monitor", "goal", "started", "ended"]
Slice = tuple[str, str, Ints, Floats, Floats]
"""attempt, series, steps, values, times (seconds since 1970)"""


@dataclass(frozen=True)
class Lookback:
    """One decision that was only concluded, what is known of its attempt, and the curve it is about."""

    decision: Mapping[str, Any]
    run: Mapping[str, Any]
    series: str
    moment: Moment
    curve: Curve

    @property
    def ended(self) -> bool:
        return bool(self.run["state"] != "running")

    @property
    def known(self) -> bool:
        """Whether the point at which it was concluded is stored."""
        return self.moment.met

    @property
    def best(self) -> float:
        """The best of the attempt, times the sign; infinite where it had no finite value."""
        return self.curve.bests.get(self.moment.goal, math.inf)

    @property
    def before(self) -> float:
        """The best by the decision, times the sign: what the judge knew, where retention has taken the first points."""
        told = _number(self.decision["evidence"].get("best"))
        told = math.inf if told is None or not math.isfinite(told) else SIGN[self.moment.goal] * told
        return max(self.best, min(self.moment.before, told))

    @property
    def lost(self) -> float:
        """The share of the attempt's best that would have been lost."""
        return share_lost(self.before, self.best)

    @property
    def steps_saved(self) -> int:
        """Steps of the judged series behind the decision."""
        step = self.decision["step"]
        return 0 if step is None else max(0, self.curve.steps - int(step))

    @property
    def seconds_saved(self) -> float:
        """From the point of the decision to the end; of an attempt whose end was only guessed to its last point."""
        ended = self.run["ended"] if self.run["state"] != "lost" else None
        end = self.curve.last if ended is None else ended / 1e6
        return max(0.0, end - self.moment.born)


class Hindsight:
    """Looks back on the decisions of `rows` (as of `decisions --json`) whose status is `would`."""

    def __init__(self, folder: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], aliases: Aliases = ALIASES) -> None:
        self._aliases = aliases
        would = [row for row in rows if row["status"] == "would" and row["action"] in ("prune", "scale-lr")]
        stored = rows_of(stored_rows(folder, "runs", RUNS_SCHEMA, _RUNS)) if would else []
        self._runs = {row["attempt"]: row for row in stored}
        self._members: dict[str, list[str]] = {}
        for row in sorted(stored, key=lambda row: (row["started"] or 0, row["attempt"])):
            if row["group"] is not None:
                self._members.setdefault(row["group"], []).append(row["attempt"])
        self._goals: dict[str, set[Goal]] = {}
        self._curves: dict[tuple[str, str], Curve] = {}
        self._lookbacks: dict[str, Lookback] = {}
        self._bests: dict[tuple[str, str, Goal], list[tuple[float, str]]] = {}
        asked = [self._asked(row, self._runs[row["attempt"]]) for row in would if row["attempt"] in self._runs]
        self._read(folder, [one for one in asked if one.ended])
        self._lookbacks = {one.decision["id"]: one for one in asked}

    def lookback(self, row: Mapping[str, Any]) -> Lookback | None:
        """The decision beside what came of it; None where there is nothing to look back on."""
        return self._lookbacks.get(row["id"])

    def of(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """What `hindsight` says of a decision: None for one that was not only concluded, or of a run that goes on."""
        if row["status"] != "would":
            return None
        one = self.lookback(row)
        if one is None:
            if row["attempt"] in self._runs or row["action"] in ("prune", "scale-lr"):
                return None
            return {"unknown": f"the points do not tell what a {row['action']} would have changed"}
        if not one.ended:
            return None
        if not one.known:
            return {"unknown": f"the points of {one.series or 'the run'} are not stored any more"}
        sign = SIGN[one.moment.goal]
        seen = {"best_before": _finite(sign * one.before), "best_after": _finite(sign * one.best)}
        seen["best_step"] = one.curve.best_steps.get(one.moment.goal)
        if row["action"] == "scale-lr":
            followed = one.moment.followed
            return {**seen, "improved_after": one.moment.soon < one.before if followed else None, "points_after": followed}
        saved = {"steps": one.curve.steps, "steps_saved": one.steps_saved, "seconds_saved": round(one.seconds_saved, 3)}
        return {**seen, **saved, "lost": one.lost, "group_lost": self.group_lost([one])}

    def group_lost(self, pruned: Sequence[Lookback]) -> float | None:
        """The share of their group's best, as far as it is known by now, that would have been lost had these attempts of it
        been ended; None of runs without a group. A later attempt of such a run would not have been begun."""
        group, goal = pruned[0].run["group"], pruned[0].moment.goal
        if group is None:
            return None
        first: dict[str, Lookback] = {}
        for one in sorted(pruned, key=lambda one: (one.run["started"] or 0, one.run["attempt"])):
            first.setdefault(one.run["run"], one)
        whole = min(one.best for one in first.values())
        left = min(one.before for one in first.values())
        for best, attempt in self._group_bests(group, pruned[0].series, goal):
            run = self._runs[attempt]
            ended = first.get(run["run"])
            if ended is None or (run["started"] or 0) < (ended.run["started"] or 0):
                whole, left = min(whole, best), min(left, best)
                break  # they stand by their bests
        return share_lost(left, whole)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _asked(self, row: Mapping[str, Any], run: Mapping[str, Any]) -> Lookback:
        evidence = row["evidence"] or {}
        series = str(evidence.get("series") or run["monitor"] or "")
        said = evidence.get("goal") or (run["goal"] if self._aliases.rank(run["monitor"] or "", series) is not None else None)
        goal: Goal = "max" if said == "max" else "min"
        step = _number(row["step"])
        moment = Moment(
            goal, None if step is None or step != step else int(step), _number(evidence.get("value")), _seconds(row["time"])
        )
        self._goals.setdefault(self._aliases.canonical(series), set()).add(goal)
        return Lookback(
            {**row, "step": moment.step, "evidence": evidence}, run, series, moment, self._curve(run["attempt"], series)
        )

    def _curve(self, attempt: str, series: str) -> Curve:
        return self._curves.setdefault((attempt, series), Curve(set()))

    def _read(self, folder: str | os.PathLike[str], asked: Sequence[Lookback]) -> None:
        """Reads the curves that the decisions are about, and those of their groups."""
        if not asked:
            return
        wanted: set[str] = set()
        for one in asked:
            one.curve.moments.append(one.moment)
            wanted.update(self._members.get(one.run["group"], ()), [one.run["attempt"]])
        series = {name for one in asked for name in self._aliases.names(one.series)}
        runs = {self._runs[attempt]["run"] for attempt in wanted}
        for attempt, name, steps, values, times in _slices(
            folder, asked_for(run=list(runs), attempt=list(wanted), series=list(series))
        ):
            curve = self._curve(attempt, name)
            curve.goals = self._goals[self._aliases.canonical(name)]
            curve.take(steps, values, times)

    def _group_bests(self, group: str, series: str, goal: Goal) -> list[tuple[float, str]]:
        """(best times the sign, attempt) of a group's attempts, the best first; each by the likeliest name that it logged."""
        key = (group, series, goal)
        if key not in self._bests:
            found = []
            for attempt in self._members.get(group, ()):
                logged = [name for name in self._aliases.names(series) if (attempt, name) in self._curves]
                best = next((self._curves[attempt, name].bests.get(goal, math.inf) for name in logged), math.inf)
                found.append((best, attempt))
            self._bests[key] = sorted(found)
        return self._bests[key]


def _slices(folder: str | os.PathLike[str], asked: dict[str, list[str]]) -> Iterator[Slice]:
    """The points asked for, by file, attempt and series, in the order of the log."""

    def read(file: pq.ParquetFile) -> list[Slice]:
        groups = [i for i in range(file.num_row_groups) if may_hold(file.metadata.row_group(i), METRICS_SCHEMA, asked)]
        found: list[Slice] = []
        for batch in batches(file, groups):
            found += _split(of_those(file.read_row_groups(batch, columns=["time", *asked, "step", "value"]), asked))
        return found

    for parts in read_each(folder, "metrics", read, encoded=list(asked)):
        yield from parts


def _split(table: pa.Table) -> Iterator[Slice]:
    """A table's rows by attempt and series."""
    kind, last = kinds(table, ["attempt", "series"])
    if not len(last):
        return
    columns = [values_of(table["step"]), values_of(table["value"]), values_of(table["time"]) / 1e6]
    order = np.argsort(kind, kind="stable")
    ends = np.searchsorted(kind[order], np.arange(len(last)), side="right")
    attempts, series = (table[name] for name in ("attempt", "series"))
    for rows, at in zip(np.split(order, ends[:-1]), last.tolist(), strict=True):
        steps, values, times = (column[rows] for column in columns)
        yield attempts[at].as_py(), series[at].as_py(), steps, values, times


def _number(value: Any) -> float | None:
    """A number, or the word for one that JSON cannot hold; None for anything else."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _seconds(time: Any) -> float:
    """When it was decided, from RFC 3339 or a timestamp: seconds since 1970."""
    from datetime import datetime

    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return float(time.timestamp()) if hasattr(time, "timestamp") else math.inf
