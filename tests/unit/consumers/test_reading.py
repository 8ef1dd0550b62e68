"""What people ask of the store, answered from its files alone."""

import math
import subprocess
import sys

import pandas as pd
import pytest
import smarttuner
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.reading import decision_rows, last_points, metric_table, run_names, run_rows
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import UsageError
from smarttuner.core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run r with attempts b (first) and a; run s of which only points arrived."""
    folder = tmp_path_factory.mktemp("store")
    events = [
        (RUNS, RunEvent("r", "b", "started", NOW, 0, started=Started(tags={"x": 1}))),
        (RUNS, RunEvent("r", "a", "started", NOW + 9, 0, started=Started(config={"lr": 0.5}))),
        (METRICS, MetricChunk("r", "b", "sdk", 0, [Series("loss", [1, 2], [9.0, 8.0], [NOW, NOW])])),
        (METRICS, MetricChunk("r", "a", "sdk", 0, [Series("loss", [3, 1, 1], [0.3, 0.5, 0.1], [NOW] * 3)])),
        (METRICS, MetricChunk("r", "a", "sdk", 3, [Series("acc", [10, 9], [float("nan"), 0.9], [NOW] * 2)])),
        (METRICS, MetricChunk("s", "z1", "sdk", 0, [Series("loss", [1], [1.0], [NOW])])),
        (METRICS, MetricChunk("s", "z2", "sdk", 0, [Series("loss", [1], [2.0], [NOW])])),
        (CONTROL, Decision("d", "r", "a", "prune", "p", "sdk:3", "bad", NOW, NOW + 60, step=3, evidence={"best": 0.1})),
        (RUNS, Ack("d", "r", "a", "applied", NOW + 1, step=4, before=1, after=None)),
    ]
    store = MetricsStore(str(folder), ManualClock(NOW))
    store.handle([Record(topic, 0, i, "r", encode(event), NOW) for i, (topic, event) in enumerate(events)], NOW)
    store.flush(NOW)
    return folder


def read(folder, **question):
    return smarttuner.read_metrics(data_dir=folder, **question)


def test_the_newest_attempt_is_read_unless_all_are_asked_for(folder):
    assert read(folder, run="r", series="loss").value.tolist() == [0.5, 0.1, 0.3]
    assert read(folder, run="r", series="loss", attempts="all").value.tolist() == [0.5, 0.1, 0.3, 9.0, 8.0]
    assert read(folder, run="s").value.tolist() == [2.0]
    assert sorted(read(folder).attempt.unique()) == ["a", "z2"]
    assert read(folder, run=["r", "s"], series=["loss"]).run.tolist() == ["r", "r", "r", "s"]
    with pytest.raises(UsageError, match='attempts="all"'):
        read(folder, attempts="each")


def test_steps_are_numbers_and_sorted_as_numbers(folder):
    acc = read(folder, run="r", series="acc")
    assert acc.step.tolist() == [9, 10]
    assert math.isnan(acc.value.tolist()[1])


def test_wide_is_a_row_a_step_with_the_last_value_of_each_series(folder):
    wide = read(folder, run="r", wide=True)
    assert wide.index.tolist() == [1, 3, 9, 10]
    assert wide.loss.dropna().to_dict() == {1: 0.1, 3: 0.3}
    assert read(folder, wide=True).index.names == ["run", "step"]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_rows_are_those_that_were_logged_sorted_and_wide_is_their_pivot(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("sorted")
    store = MetricsStore(str(folder), ManualClock(NOW), seal_rows=data.draw(st.integers(2, 30)))
    one = st.tuples(st.sampled_from(["r1", "r10", "r2"]), st.sampled_from("ab"), st.sampled_from("yx"), st.integers(-3, 9))
    points = data.draw(st.lists(one, max_size=60))
    for i, (run, attempt, series, step) in enumerate(points):
        chunk = MetricChunk(run, run + attempt, "sdk", i, [Series(series, [step], [i / 2], [NOW])])
        store.handle([Record(METRICS, 0, i, "r", encode(chunk), NOW)], NOW)
        if data.draw(st.booleans()):
            store.flush(NOW)
    store.flush(NOW)
    every = read(folder, attempts="all")
    asked = {"run": data.draw(st.sampled_from(["r1", ["r1", "r10"], None])), "series": data.draw(st.sampled_from(["x", None]))}
    expected = sorted((run, run + attempt, series, step, i) for i, (run, attempt, series, step) in enumerate(points))
    assert list(every[["run", "attempt", "series", "step", "seq"]].itertuples(index=False, name=None)) == expected
    assert (every["value"] == every["seq"] / 2).all()
    for attempts in ("all", "current"):
        long, wide = read(folder, attempts=attempts, **asked), read(folder, attempts=attempts, wide=True, **asked)
        if attempts == "current":
            those = every if asked["series"] is None else every[every["series"] == asked["series"]]
            newest = those.groupby("run")["attempt"].max().to_dict()  # of runs that no event told of
            assert all(attempt == newest[run] for run, attempt in zip(long["run"], long["attempt"], strict=True))
        levels = [*([] if isinstance(asked["run"], str) else ["run"]), *(["attempt"] if attempts == "all" else []), "step"]
        pivoted = long.drop_duplicates([*levels, "series"], keep="last").pivot(index=levels, columns="series", values="value")
        if len(long):
            pd.testing.assert_frame_equal(wide, pivoted)
        else:
            assert wide.empty
            assert wide.index.names == levels


def test_nothing_stored_is_an_empty_frame_with_the_columns(folder, tmp_path):
    assert read(folder, run="nobody").empty
    assert list(read(tmp_path / "none").columns) == list(read(folder).columns)
    assert run_rows(tmp_path / "none") == decision_rows(tmp_path / "none") == run_names(tmp_path / "none") == []


def test_rows_have_the_shape_of_the_interface(folder):
    first, second = run_rows(folder, "r")
    assert (first["attempt"], first["tags"], first["started"]) == ("b", {"x": 1}, "2023-11-14T22:13:20.000000Z")
    assert (second["attempt_number"], second["config"], second["ended"]) == (2, {"lr": 0.5}, None)
    (decision,) = decision_rows(folder)
    assert (decision["status"], decision["latency_ms"], decision["before"], decision["after"]) == ("applied", 1000.0, 1, None)
    assert decision["evidence"] == {"best": 0.1}
    assert decision["not_after"] == "2023-11-14T22:14:20.000000Z"


def test_the_last_point_is_the_one_logged_last(folder):
    assert last_points(folder, "r")["a"]["loss"]["value"] == 0.1
    assert last_points(folder)["z2"]["loss"] == {"step": 1, "value": 2.0, "time": "2023-11-14T22:13:20.000000Z"}
    assert run_names(folder) == ["r", "s"]


def test_bare_pandas_finds_the_same_rows(folder):
    bare = pd.read_parquet(folder / "metrics", filters=[("run", "==", "r"), ("series", "==", "loss"), ("attempt", "==", "a")])
    assert sorted(bare.value) == sorted(metric_table(folder, "r", "loss")["value"].to_pylist())


def test_neither_writing_nor_a_command_that_reads_imports_pandas(tmp_path):
    """It takes a second and 50 MB; pyarrow imports it by itself in pa.array and pyarrow.dataset."""
    script = f"""
import sys, runpy
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.reading import decision_rows, last_points, metric_table, run_names, run_rows
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import MetricChunk, RunEvent, Series, encode
from smarttuner.core.ports import Record
folder = {str(tmp_path)!r}
store = MetricsStore(folder, SystemClock(), seal_rows=3)
for i in range(3):
    chunk = MetricChunk("r", "a", "sdk", 2 * i, [Series("x", [1, 2], [1.0, 2.0], [0.0, 1.0])])
    store.handle([Record("metrics", 0, i, "r", encode(chunk), 1.0)], 1.0)
    store.handle([Record("runs", 0, i, "r", encode(RunEvent("r", f"a{{i}}", "started", 1.0)), 1.0)], 1.0)
    store.flush(1.0)
assert len(metric_table(folder, "r", attempts="all")) == 6
assert last_points(folder) and run_rows(folder) and run_names(folder) and not decision_rows(folder)
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_decisions_on_points_that_reached_the_log_at_once_stand_by_step(tmp_path):
    decided = [Decision(name, "r", "a", "scale-lr", "p", "sdk:3", "bad", NOW, NOW, step=s) for name, s in (("a", 20), ("b", 3))]
    store = MetricsStore(str(tmp_path), ManualClock(NOW))
    store.handle([Record(CONTROL, 0, i, "r", encode(one), NOW) for i, one in enumerate(decided)], NOW)
    store.flush(NOW)
    assert [row["step"] for row in decision_rows(tmp_path)] == [3, 20]
