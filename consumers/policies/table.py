"""Policies asked about a written-down series: for doctests, table tests and trying an option by hand."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.events import Decision, Goal
from ...core.ports import Policy
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
