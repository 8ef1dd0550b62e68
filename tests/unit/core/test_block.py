"""Series folded together in blocks leave just what each leaves that is folded for itself, however the points are cut."""

import math

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.core.band import BandMeasure
from smarttuner.core.block import Block, Points
from smarttuner.core.evaluations import EvaluationsMeasure
from smarttuner.core.measures import BestMeasure, BoundsMeasure, ImprovementMeasure, NotFiniteMeasure, PlateauMeasure
from smarttuner.core.rungs import RungMeasure
from smarttuner.core.window import Subject, Window

VALUES = st.one_of(
    st.floats(-3, 3, width=16),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1.0, 50.0, 1e308, -1e308]),
)
POINT = st.tuples(st.one_of(st.integers(1, 3), st.sampled_from([40, 5000])), VALUES)
"""(advance of the step, value)"""
SERIES = st.lists(POINT, min_size=1, max_size=150)
CUTS = st.lists(st.integers(1, 90), min_size=1, max_size=12)


def window(goal):
    measures = [
        NotFiniteMeasure(),
        BandMeasure(goal, 3.0, 0.1),
        EvaluationsMeasure(),
        RungMeasure(goal),
        BestMeasure(goal, 0.25),
        PlateauMeasure(goal, 0.01, "rel", 2, 1),
        ImprovementMeasure(goal, 3),
        BoundsMeasure(-1.0, 1.0, 4),
    ]
    return Window(Subject("run", "attempt", "loss", goal), measures)


def told(columns):
    """All that a policy can see of each point, and nothing is equal but itself."""
    return [repr(columns.evidence(i)) for i in range(len(columns))]


class Told:
    """The points of one series, cut into pieces, as blocks and one window for itself take them."""

    def __init__(self, points, cuts, goal):
        self.steps = np.cumsum([advance for advance, _ in points])
        self.values = np.array([value for _, value in points])
        self.cuts, self.at, self.nth = cuts, 0, 0
        self.together, self.alone = window(goal), window(goal)

    def piece(self):
        """The next points, or None."""
        n = min(self.cuts[self.nth % len(self.cuts)], len(self.steps) - self.at)
        if n == 0:
            return None
        part = slice(self.at, self.at + n)
        self.at, self.nth = self.at + n, self.nth + 1
        at = np.arange(part.start, part.stop)
        return Points(at, self.steps[part], self.values[part], at + 0.5, at + 1000.0, at + 7)

    def saved(self):
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.together.dump()))
        self.together = window(self.together.subject.goal)
        self.together.load(state)


@settings(max_examples=150, deadline=None)
@given(SERIES, st.sampled_from(["min", "max"]), st.sets(st.integers(1, 149), max_size=3), st.booleans())
def test_points_taken_one_by_one_leave_what_columns_leave(points, goal, restores, repeats):
    one_by_one, columns, at = window(goal), window(goal), 0
    steps = np.cumsum([advance for advance, _ in points])
    for at, (step, (_, value)) in enumerate(zip(steps.tolist(), points, strict=True)):
        if at in restores:
            one_by_one.new_segment(), columns.new_segment()
        place = max(0, at - 1) if repeats and at % 5 == 4 else at
        wanted = columns.extend("sdk", [place], ([step - at % 2], [value], [at + 0.5]), float(at), at)
        figures = one_by_one.take("sdk", place, step - at % 2, value, at + 0.5)
        assert (figures is None) == (wanted is None)
        if wanted is not None:
            assert told(one_by_one.alone("sdk", place, float(at), at)) == told(wanted)
            assert repr(figures) == repr(wanted.evidence(0).figures)
        assert repr(one_by_one.dump()) == repr(columns.dump())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SERIES, CUTS), min_size=1, max_size=6), st.sampled_from(["min", "max"]), st.data())
def test_a_block_leaves_what_windows_leave_that_are_folded_one_by_one(series, goal, data):
    each = [Told(points, cuts, goal) for points, cuts in series]
    while pieces := [(one, points) for one in each if (points := one.piece()) is not None]:
        flat = Points(*(np.concatenate(columns) for columns in zip(*(points for _, points in pieces), strict=True)))
        sizes = np.array([len(points.steps) for _, points in pieces])
        block = Block([one.together for one, _ in pieces], ["sdk"] * len(pieces), flat, np.cumsum(sizes) - sizes, sizes)
        screened = block.screened(None)
        seen = []
        for row, (one, points) in enumerate(pieces):
            columns = one.alone.extend("sdk", points.positions, points[1:4], points.appended, points.orders)
            assert told(block.columns(row)) == told(columns)
            seen += told(columns)
        assert told(screened) == seen
        for key, named in screened.figures.items():
            for name, column in named.items():
                assert repr(column.tolist()) == repr([x for row in range(len(pieces)) for x in figure(block, row, key, name)])
        block.keep()
        restored = data.draw(st.sampled_from(["nothing", "nothing", "restore", "save"]))
        for one, _ in pieces:
            assert repr(one.together.dump()) == repr(one.alone.dump())
            if restored == "restore":
                one.together.new_segment(), one.alone.new_segment()
            elif restored == "save":
                one.saved()


def figure(block, row, key, name):
    return block.columns(row).figures[key][name].tolist()
