"""Rungs: the best until fixed places of the step axis, however the points were cut."""

import math

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.core.rungs import OCTAVE, RungMeasure, first_step, rung_of, rungs_of

STEPS = st.lists(st.integers(0, 40), min_size=1, max_size=80).map(lambda gaps: np.cumsum(gaps).tolist())
VALUES = st.one_of(st.floats(-4, 4, width=16), st.sampled_from([math.nan, math.inf, -math.inf]))


@given(st.integers(-5, 2**62))
def test_a_rung_holds_the_steps_between_its_first_and_the_next_ones(step):
    rung = rung_of(step)
    assert rung_of(first_step(rung)) == rung
    assert rung == 0 or first_step(rung) <= step
    assert rungs_of(np.array([step])).tolist() == [rung]


@given(st.integers(1, 2**50))
def test_twice_the_steps_are_an_octave_more(step):
    assert rung_of(2 * step) in (rung_of(step) + OCTAVE, rung_of(step) + OCTAVE - 1)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.data(), st.sampled_from(["min", "max"]))
def test_the_curve_is_the_best_before_each_rung_ends_however_the_points_are_cut(steps, data, goal):
    values = data.draw(st.lists(VALUES, min_size=len(steps), max_size=len(steps)))
    sign = 1.0 if goal == "min" else -1.0
    one = RungMeasure(goal)
    closed, at = [], 0
    while at < len(steps):
        n = data.draw(st.integers(1, 40))
        columns = one.fold(np.array(steps[at : at + n]), np.array(values[at : at + n], float))
        closed += columns["closed"].tolist()
        at += n
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(one.dump()))
        one = RungMeasure(goal)
        one.load(state)
    assert one.start == rung_of(steps[0])
    assert one.closed == (rung_of(steps[-1]) - 1 if rung_of(steps[-1]) > one.start else -1)
    highest = one.start
    for step, told in zip(steps, closed, strict=True):
        assert told == (rung_of(step) - 1 if rung_of(step) > highest else -1)
        highest = max(highest, rung_of(step))
    for i, best in enumerate(one.curve.tolist()):
        until = [sign * v for s, v in zip(steps, values, strict=True) if rung_of(s) <= one.start + i and math.isfinite(v)]
        assert best == min(until, default=math.inf)
