"""The points of a series come back as they were logged, however they lie in files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers.figures.curves import points_of
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import MetricChunk, Series, encode
from smarttuner.core.ports import METRICS, Record

NOW = 1_700_000_000.0


def stored(folder, points, seal_rows=1_000, flush_at=lambda: False):
    """Stores (attempt, source, series, step, value), a chunk a point, positions counted a source."""
    store = MetricsStore(str(folder), ManualClock(NOW), seal_rows=seal_rows)
    seqs = {}
    for i, (attempt, source, series, step, value) in enumerate(points):
        seq = seqs[attempt, source] = seqs.get((attempt, source), -1) + 1
        chunk = MetricChunk(f"run-{attempt}", attempt, source, seq, [Series(series, [step], [value], [NOW])])
        store.handle([Record(METRICS, 0, i, "k", encode(chunk), NOW)], NOW)
        if flush_at():
            store.flush(NOW)
    store.flush(NOW)
    return folder


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_each_attempt_gets_its_points_in_the_order_in_which_they_were_logged(tmp_path_factory, data):
    point = st.tuples(st.sampled_from("abc"), st.just("sdk"), st.sampled_from(["x", "y"]), st.integers(0, 9), st.floats(-9, 9))
    points = data.draw(st.lists(point, min_size=1, max_size=60))
    folder = stored(tmp_path_factory.mktemp("cut"), points, data.draw(st.integers(2, 40)), lambda: data.draw(st.booleans()))
    found = points_of(folder, "x", ["run-a", "run-b"], ["a", "b"])
    for attempt in "ab":
        mine = [(step, value) for one, _, series, step, value in points if (one, series) == (attempt, "x")]
        one = found.get(attempt)
        assert ([] if one is None else list(zip(one.steps.tolist(), one.values.tolist(), strict=True))) == mine
    assert "c" not in found


@pytest.mark.parametrize("seal_rows", [2, 1_000])
def test_of_two_sources_one_follows_the_other(tmp_path, seal_rows):
    points = [("a", source, "x", step, float(step)) for step in range(4) for source in ("sdk", "log")]
    one = points_of(stored(tmp_path, points, seal_rows), "x", ["run-a"], ["a"])["a"]
    assert one.steps.tolist() == [0, 1, 2, 3] * 2


def test_the_name_that_was_asked_for_goes_before_its_others(tmp_path):
    points = [("a", "sdk", "eval_loss", 1, 1.0), ("a", "sdk", "val_loss", 1, 2.0), ("b", "sdk", "eval_loss", 1, 3.0)]
    folder = stored(tmp_path, points)
    found = points_of(folder, "val_loss", ["run-a", "run-b"], ["a", "b"])
    assert {attempt: (one.series, one.values.tolist()) for attempt, one in found.items()} == {
        "a": ("val_loss", [2.0]),
        "b": ("eval_loss", [3.0]),
    }
    assert points_of(folder, "eval_loss", ["run-a"], ["a"])["a"].values.tolist() == [1.0]
    assert points_of(folder, "nothing", ["run-a"], ["a"]) == {}
