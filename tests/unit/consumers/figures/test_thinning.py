"""Few points stand for many, and nothing that could be seen is lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from smarttuner.consumers.figures.thinning import thin


def flat(lines):
    return [point for x, y in lines for point in zip(x.tolist(), y.tolist(), strict=True)]


def test_a_short_curve_stays_as_it_is():
    x, y = np.linspace(0, 1, 500), np.sin(np.arange(500))
    assert flat(thin(x, y, 860, 500)) == list(zip(x.tolist(), y.tolist(), strict=True))


def test_a_spike_of_one_point_in_a_million_stays():
    y = np.zeros(1_000_000)
    y[777_777], y[123_456] = 9.0, -4.0
    ((x, kept),) = thin(np.linspace(0, 1, len(y)), y, 860, 2_000)
    assert (kept.max(), kept.min()) == (9.0, -4.0)
    assert x[kept.argmax()] == pytest.approx(0.777777, abs=1e-5)
    assert len(kept) <= 2_000
    assert (x[0], x[-1]) == (0.0, 1.0)


def test_a_gap_ends_a_line_where_it_can_be_seen():
    x, y = np.linspace(0, 1, 101), np.ones(101)
    y[50:60] = np.nan
    assert [len(line) for _, line in thin(x, y, 860, 2_000)] == [50, 41]
    dense = np.ones(100_000)
    dense[::2] = np.nan
    ((_, line),) = thin(np.linspace(0, 1, len(dense)), dense, 860, 2_000)
    assert len(line) <= 2_000


def test_points_between_gaps_stand_alone():
    y = np.array([1.0, np.nan, 2.0, np.inf, 3.0])
    assert [line.tolist() for _, line in thin(np.linspace(0, 1, 5), y, 860, 2_000)] == [[1.0], [2.0], [3.0]]
    assert thin(np.array([0.0]), np.array([np.nan]), 860, 2_000) == []
    assert flat(thin(np.array([0.5]), np.array([7.0]), 860, 2_000)) == [(0.5, 7.0)]


def test_a_line_ends_where_the_steps_go_back():
    lines = thin(np.array([0.0, 0.5, 1.0, 0.2, 0.6]), np.arange(5.0), 860, 2_000)
    assert [line.tolist() for _, line in lines] == [[0.0, 1.0, 2.0], [3.0, 4.0]]


def test_a_curve_that_goes_back_all_the_time_is_drawn_by_step():
    x = np.tile(np.linspace(0, 1, 3), 1_000)
    ((kept, _),) = thin(x, np.arange(3_000.0), 860, 100)
    assert len(kept) <= 100
    assert (np.diff(kept) >= 0).all()


POINTS = st.lists(
    st.tuples(st.floats(0, 1), st.one_of(st.floats(-1e9, 1e9), st.sampled_from([np.nan, np.inf]))), min_size=1, max_size=300
)


@given(POINTS, st.integers(8, 64), st.integers(1, 900))
def test_extremes_stay_and_the_limit_holds_for_any_points(points, most, columns):
    x, y = (np.array(column, float) for column in zip(*points, strict=True))
    kept = flat(thin(x, y, columns, most))
    given_points = [point for point in zip(x.tolist(), y.tolist(), strict=True) if np.isfinite(point[1])]
    assert len(kept) <= most
    assert set(kept) <= set(given_points)
    if given_points:
        values = [value for _, value in kept]
        assert (min(values), max(values)) == (min(v for _, v in given_points), max(v for _, v in given_points))
