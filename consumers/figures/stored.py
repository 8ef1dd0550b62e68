"""The figure of a run, or of the runs of a group, from what is stored of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import SmartTunerError, UsageError
from ...core.registry import did_you_mean
from ..aliases import ALIASES, Aliases
from ..reading import Attempts, decision_rows, last_points, run_names, run_rows
from ..summaries import summaries
from .curves import Points, points_of
from .drawing import Curve, Figure, Panel
from .marks import Mark

MAX_PANELS = 12
MAX_MARKS = 300
MAX_LINES = 40
"""Decisions that are also lines from top to bottom."""
_FIRST = {"applied": 0, "would": 1}
Row = dict[str, Any]
Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class Subject:
    """What is drawn: attempts as rows of `runs/` (of one that only points arrived of: run and attempt), oldest first; `aliases`
    are the names that its series go by."""

    name: str
    rows: Sequence[Row]
    newest: frozenset[str]
    aliases: Aliases

    @property
    def runs(self) -> list[str]:
        """The runs, by name."""
        return sorted({row["run"] for row in self.rows})


@dataclass(frozen=True)
class Drawn:
    """A figure, and the decisions that it is about, also those that have no place on it."""

    figure: Figure
    subject: Subject
    decisions: Sequence[Row]


def find_subject(folder: Folder, name: str, attempts: Attempts, aliases: Aliases = ALIASES) -> Subject:
    """What goes by a name: a run, and the runs of a group. SmartTunerError with the nearest name where nothing does."""
    every = run_rows(folder)
    rows = [row for row in every if name in (row["run"], row["group"])]
    if not rows:
        rows = [{"run": name, "attempt": one} for one in sorted(last_points(folder, name))]
    if not rows:
        known = sorted({*run_names(folder), *(row["group"] for row in every if row["group"])})
        hint = did_you_mean(name, known) if known else "nothing is stored there yet; name another with --data-dir"
        raise SmartTunerError(f"no run and no group is called {name!r} in {folder}", hint)
    rows.sort(key=lambda row: (row["run"], row.get("attempt_number") or 0, row["attempt"]))
    newest = frozenset({row["run"]: row["attempt"] for row in rows}.values())
    return Subject(name, [row for row in rows if attempts == "all" or row["attempt"] in newest], newest, aliases)


def figure_of(folder: Folder, subject: Subject, series: Sequence[str] = (), *, log: bool = False) -> Drawn:
    """The figure: of the series named, else of those that a run logged, the judged one first; of a group the judged one.
    UsageError for a series that nobody logged, SmartTunerError where nothing is logged yet."""
    notes: list[str] = []
    read: dict[str, dict[str, Points]] = {}
    chosen = list(dict.fromkeys(series)) or _default_series(folder, subject, read)
    if len(chosen) > MAX_PANELS and not series:
        notes.append(f"{len(chosen) - MAX_PANELS} more series: {', '.join(chosen[MAX_PANELS:])}"[:140])
        chosen = chosen[:MAX_PANELS]
    decisions = _decisions(folder, subject)
    placed = sorted((row for row in decisions if step_of(row) is not None), key=lambda row: _FIRST.get(row["status"], 2))
    shown = placed[:MAX_MARKS]
    if len(shown) < len(decisions):
        notes.append(f"{len(decisions) - len(shown)} more decisions have no place here; smart-tuner decisions lists them")
    panels = []
    for name in chosen:
        points = read.pop(name, None) or _points(folder, subject, name)
        if not points:
            raise _unknown(folder, subject, name)
        panels.append(Panel(name, _curves(subject, points), [_mark(row, points.get(row["attempt"])) for row in shown]))
    missing = sum(int((one.values <= 0).sum()) for panel in panels for one in panel.curves) if log else 0
    if missing:
        notes.append(f"{missing} values that are not above 0 have no place on a logarithmic axis")
    lines = len(subject.runs) == 1 and len(shown) <= MAX_LINES
    return Drawn(Figure(_title(subject), panels, lines, log, notes), subject, decisions)


def _points(folder: Folder, subject: Subject, name: str) -> dict[str, Points]:
    return points_of(folder, name, subject.runs, [row["attempt"] for row in subject.rows], subject.aliases)


def _default_series(folder: Folder, subject: Subject, read: dict[str, dict[str, Points]]) -> list[str]:
    """What is drawn where nothing was named; points that were read on the way are put into `read`."""
    monitors = Counter(row["monitor"] for row in subject.rows if row.get("monitor"))
    if len(subject.runs) > 1 and monitors:
        wanted, _ = monitors.most_common(1)[0]
        if found := _points(folder, subject, wanted):
            read[wanted] = found
            return [wanted]
    logged = _logged(folder, subject)
    if not logged:
        raise SmartTunerError(f"{subject.name} has logged nothing yet", "wait for its first points, or look at smart-tuner doctor")
    judged = {subject.aliases.find(monitor, logged) for monitor in monitors}
    return sorted(logged, key=lambda name: (name not in judged, name))


def _logged(folder: Folder, subject: Subject) -> set[str]:
    attempts = {row["attempt"] for row in subject.rows}
    return {name.series for name in summaries(folder, lambda *_: "min", subject.runs) if name.attempt in attempts}


def _unknown(folder: Folder, subject: Subject, name: str) -> UsageError:
    known = sorted(_logged(folder, subject))
    return UsageError(f"{subject.name} has no series {name!r}", did_you_mean(name, known) if known else "it has logged nothing yet")


def _curves(subject: Subject, points: Mapping[str, Points]) -> list[Curve]:
    numbers = {run: i for i, run in enumerate(subject.runs)}
    several = Counter(row["run"] for row in subject.rows)
    curves = []
    for row in subject.rows:
        found = points.get(row["attempt"])
        if found is None:
            continue
        name = row["run"] if several[row["run"]] == 1 else f"{row['run']} (attempt {row.get('attempt_number') or row['attempt']})"
        faded = row["attempt"] not in subject.newest
        curves.append(Curve(name, numbers[row["run"]], found.steps, found.values, faded))
    return curves


def _decisions(folder: Folder, subject: Subject) -> list[Row]:
    attempts = {row["attempt"] for row in subject.rows}
    rows = decision_rows(folder, subject.runs[0] if len(subject.runs) == 1 else None)
    return [row for row in rows if row["attempt"] in attempts]


def _mark(row: Row, points: Points | None) -> Mark:
    step = step_of(row)
    assert step is not None
    return Mark(row["action"], row["status"], step, _value_at(points, step), label(row), told(row))


def _value_at(points: Points | None, step: int) -> float:
    """The value that stood at a step: that of the greatest step up to it, the last logged of several; NaN where none did."""
    if points is None:
        return float("nan")
    places = np.flatnonzero((points.steps <= step) & np.isfinite(points.values))
    if not len(places):
        return float("nan")
    reached = points.steps[places].max()
    return float(points.values[places[points.steps[places] == reached][-1]])


def step_of(row: Row) -> int | None:
    """Where a decision was applied, else the step that it was made at; None where neither is known."""
    step: int | None = row["step"] if row["applied_step"] is None else row["applied_step"]
    return step


def label(row: Row) -> str:
    """A decision in a word or two.

    >>> label({"action": "scale-lr", "params": {"factor": 0.5}, "after": None})
    'lr × 0.5'
    """
    params: Mapping[str, Any] = row["params"] or {}
    if row["action"] == "scale-lr" and "factor" in params:
        return f"lr × {_short(params['factor'])}"
    if row["action"] == "set-lr" and "value" in params:
        return f"lr = {_short(params['value'])}"
    if row["action"] == "restore" and isinstance(row["after"], int):
        return f"restore {row['after']}"
    return str(row["action"]).replace("release-lr", "lr released")


def answer(row: Row) -> str:
    """What came of a decision: who refused it and why, or what was before and is now."""
    if row["refused_by"]:
        return str(row["refused_by"])
    return "" if row["after"] is None else f"{_short(row['before'])} → {_short(row['after'])}"


def told(row: Row) -> str:
    """All there is to say of a decision, in a few lines."""
    step = step_of(row)
    head = f"{row['run']}: {label(row)}, {row['status']}" + ("" if step is None else f" at step {step}")
    by = f"{row['policy']}, {row['time']}, {row['id']}"
    return "\n".join(line for line in (head, row["reason"], answer(row), by) if line)


def _short(value: Any) -> str:
    """
    >>> _short([0.05, 0.123456789]), _short(None), _short("Infinity")
    ('0.05, 0.123457', 'None', 'Infinity')
    """
    if isinstance(value, list) and value:
        return ", ".join(map(_short, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _title(subject: Subject) -> str:
    if subject.runs != [subject.name]:
        return f"{subject.name}: {len(subject.runs)} run{'s' if len(subject.runs) > 1 else ''}"
    row = subject.rows[-1]
    number = row.get("attempt_number") or 1
    attempt = f" (attempt {number})" if number > 1 else ""
    return f"{subject.name}{attempt} {row.get('state') or ''}".rstrip()
