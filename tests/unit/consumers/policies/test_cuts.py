"""The same points give the same decisions however they are cut into chunks, over every policy."""

import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers.policies import REGISTRY
from smarttuner.core.events import encode
from smarttuner.core.window import Subject, Window

VALUES = st.one_of(
    st.floats(0, 4, width=16),
    st.sampled_from([1.0, 1.0, 1.0, 2.0, 50.0, -1.0, math.nan, math.inf, -math.inf, 1e308, -1e308]),
)
POINTS = st.lists(st.tuples(st.integers(1, 3).map(lambda n: n - 1), VALUES), min_size=1, max_size=120)
"""(advance of the step, value): an advance of 0 repeats a step, which is not judged."""
OPTIONS = {
    "patience": st.fixed_dictionaries(
        {
            "patience": st.integers(1, 5),
            "min_delta": st.sampled_from([0.0, 0.1, 1.0]),
            "mode": st.sampled_from([None, "min", "max"]),
            "restore_best_weights": st.booleans(),
        }
    ),
    "plateau": st.fixed_dictionaries(
        {
            "factor": st.just(0.5),
            "patience": st.integers(0, 4),
            "threshold": st.sampled_from([0.0, 0.01, 0.5]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 4),
        }
    ),
    "improvement": st.fixed_dictionaries(
        {"min_improvement_percent": st.sampled_from([0.0, 1.0, 50.0]), "evaluation_window": st.integers(1, 9)}
    ),
    "quality_gate": st.fixed_dictionaries(
        {
            "min": st.sampled_from([None, 0.5]),
            "max": st.sampled_from([2.0, 10.0]),
            "then": st.sampled_from([None, "alert", "prune"]),
            "after": st.integers(0, 12),
            "goal": st.sampled_from([None, "min"]),
        }
    ),
    "divergence": st.fixed_dictionaries(
        {
            "points": st.integers(1, 4),
            "width": st.sampled_from([1.0, 6.0]),
            "rise_percent": st.sampled_from([0.0, 50.0]),
            "not_finite": st.integers(1, 3),
        }
    ),
    "stall": st.just({}),  # no point says anything of silence
    # What they see of peers, and how it is cut, is in test_peers.py.
    "extrapolation": st.fixed_dictionaries({"doublings": st.sampled_from([0.5, 4.5]), "after": st.integers(0, 9)}),
    "median": st.fixed_dictionaries({"peers": st.integers(1, 3), "after": st.integers(0, 9)}),
    "halving": st.fixed_dictionaries({"factor": st.sampled_from([2.0, 3.0]), "after": st.integers(0, 9)}),
}


def saved(window, policy):
    """The window as another process would have it."""
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(window.dump()))
    other = Window(window.subject, policy.measures(window.subject))
    other.load(state)
    return other


def taken(window, at, steps, values):
    """The columns of the points; one for itself is taken in without arrays."""
    if len(at) > 1:
        return window.extend("sdk", at, (steps, values, at.astype(float)), 1000.0 + at)
    figures = window.take("sdk", int(at[0]), int(steps[0]), float(values[0]), float(at[0]))
    return None if figures is None else window.alone("sdk", int(at[0]), 1000.0 + at[0], 0)


def decisions(policy, goal, points, cuts, restores, saves):
    subject = Subject("r", "a", "val_loss", goal)
    window = Window(subject, policy.measures(subject))
    steps, values = np.cumsum([advance for advance, _ in points]), [value for _, value in points]
    said = []
    edges = [0, *sorted({cut for cut in cuts | restores if 0 < cut < len(points)}), len(points)]
    for start, end in itertools.pairwise(edges):
        if start in restores:
            window.new_segment()
        at = np.arange(start, end)
        columns = taken(window, at, steps[start:end], values[start:end])
        if columns is not None:
            mask = policy.screen(columns)
            answers = [policy.judge(columns.evidence(i)) for i in range(len(columns))]
            assert [answer is not None for answer in answers] == mask.tolist(), "a screen is exact"
            asks = getattr(policy, "may_speak", lambda figures, subject: True)
            asked = [asks(columns.evidence(i).figures, subject) for i in range(len(columns))]
            assert not (mask & ~np.array(asked)).any(), "a point of which it speaks is one of which it may"
            said.extend(encode(answer) for answer in answers if answer is not None)
        if saves:
            window = saved(window, policy)
    return said


@pytest.mark.parametrize("name", sorted(REGISTRY))
@given(data=st.data(), points=POINTS, goal=st.sampled_from(["min", "max"]))
@settings(max_examples=120, deadline=None)
def test_decisions_do_not_depend_on_how_the_points_are_cut(name, data, points, goal):
    policy = REGISTRY.make(name, **data.draw(OPTIONS[name]))
    restores = data.draw(st.sets(st.integers(1, 119), max_size=2))
    cuts = data.draw(st.sets(st.integers(1, 119), max_size=30))
    whole = decisions(policy, goal, points, set(), restores, saves=False)
    assert decisions(policy, goal, points, cuts, restores, saves=True) == whole
    assert decisions(policy, goal, points, set(range(1, len(points))), restores, saves=False) == whole
