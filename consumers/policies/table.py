"""Policies asked about a written-down series: for doctests, table tests and trying an option by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...core.closed_rungs import ClosedRungs
from ...core.events import Decision, Goal
from ...core.peers import Peers
from ...core.ports import Policy
from ...core.rungs import NONE, RungMeasure, rungs_of
from ...core.window import Columns, Evidence, Subject, Window

START_S = 1_700_000_000.0
"""The time of step 0; a step lasts a second."""


def columns(values: Sequence[float], policy: Policy, goal: Goal = "min", series: str = "val_loss") -> Columns:
    """What a real window knows after each of the values (n >= 1), which stand at steps 0 to n - 1."""
    subject = Subject("run", "attempt", series, goal)
    window = Window(subject, policy.measures(subject))
    steps = range(len(values))
    times = [START_S + i for i in steps]
    known = window.extend("sdk", steps, (steps, values, times), times[-1])
    if known is None:
        raise ValueError("values: a series of no points cannot be judged")
    return known


def evidence(values: Sequence[float], policy: Policy, goal: Goal = "min", series: str = "val_loss") -> Evidence:
    """What the policy may look at right after the last of the values."""
    return columns(values, policy, goal, series).evidence(len(values) - 1)


def decisions(values: Sequence[float], policy: Policy, goal: Goal = "min", series: str = "val_loss") -> list[Decision]:
    """Every answer of the policy, point by point.

    >>> from smarttuner.consumers.policies.patience import Patience
    >>> [one.step for one in decisions([3, 2, 2, 2, 2], Patience(patience=2))]
    [3, 4]
    """
    known = columns(values, policy, goal, series)
    answers = (policy.judge(known.evidence(i)) for i in range(len(known)))
    return [one for one in answers if one is not None]


def among(
    values: Sequence[float],
    others: Mapping[str, Sequence[float]],
    policy: Policy,
    goal: Goal = "min",
    states: Mapping[str, str] | None = None,
) -> Evidence:
    """What the policy may look at right after the last of the values, when the others logged theirs at the same steps, each
    just before; `states` of those that no longer run."""
    known, ended = columns(values, policy, goal), states or {}
    measure = RungMeasure(goal)
    figures = measure.fold(known.steps, known.values)
    points = np.flatnonzero(figures["closed"] != NONE)
    curves = [RungMeasure(goal) for _ in others]
    rungs, rows = ClosedRungs(), np.zeros(len(others), np.int64)
    shown = np.empty((len(others), len(points)), np.int64)
    for row, (curve, other) in enumerate(zip(curves, others.values(), strict=True)):
        curve.fold(np.arange(len(other)), np.array(other, float))
        rows[row] = rungs.add()
        rungs.put(int(rows[row]), curve.start, curve.curve, 0)
        shown[row] = rungs_of(np.minimum(points, len(other) - 1)) - 1
    runs = list(others)
    running = np.array([[run not in ended] * len(points) for run in runs])
    told = [ended.get(run, "running") for run in runs]
    finished = np.array([[state == "finished"] for state in told])
    closed, own = figures["closed"][points], measure.curve
    peers = Peers(points, closed, runs, told, shown, running, finished, math.nan, measure.start, own, 0, rows[:, None], rungs)
    return replace(known, peers=peers).evidence(len(values) - 1)
