"""Runs and decisions as pandas frames, computed from the files alone."""

import math

import numpy as np
import pandas as pd
import pytest
import smarttuner
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers import summaries
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import UsageError
from smarttuner.core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record

NOW = 1_700_000_000.0
NAN, INF = float("nan"), float("inf")


def stored(folder, events):
    store = MetricsStore(str(folder), ManualClock(NOW))
    store.handle([Record(topic, 0, i, "r", encode(event), NOW) for i, (topic, event) in enumerate(events)], NOW)
    store.flush(NOW)
    return folder


def chunk(run, attempt, seq, **series):
    points = [Series(name, steps, values, [NOW] * len(steps)) for name, (steps, values) in series.items()]
    return (METRICS, MetricChunk(run, attempt, "sdk", seq, points))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run r, resumed: attempts b and a (the newer); run s maximises; of run t only points arrived."""
    config = {"lr": 0.5, "model": {"width": 8, "act": "relu"}, "clip": INF}
    events = [
        (RUNS, RunEvent("r", "b", "started", NOW, 0, started=Started(tags={"who": "ann"}, config=config))),
        (RUNS, RunEvent("r", "a", "started", NOW + 9, 0, started=Started(config={"lr": 0.1}, resume_from_step=2))),
        (RUNS, RunEvent("s", "c", "started", NOW + 20, 0, group="g", started=Started(monitor="acc", goal="max"))),
        chunk("r", "b", 0, loss=([1, 2, 3], [9.0, 0.5, NAN]), acc=([1, 2], [0.1, 0.2])),
        chunk("r", "a", 0, loss=([3, 4, 5, 6], [0.4, -INF, 0.3, 0.3]), bad=([3], [NAN])),
        chunk("s", "c", 0, acc=([1, 2, 3], [0.1, 0.9, 0.4]), loss=([1], [2.0])),
        chunk("t", "d", 0, loss=([7], [1.0])),
        (CONTROL, Decision("d2", "r", "a", "scale-lr", "p", "sdk:3", "flat", NOW + 5, NOW + 60, step=3, params={"factor": 0.5})),
        (CONTROL, Decision("d1", "s", "c", "alert", "p", "sdk:1", "odd", NOW, NOW, step=1, evidence={"best": INF}, status="would")),
        (RUNS, Ack("d2", "r", "a", "applied", NOW + 6, step=4, before=[0.1], after=[0.05])),
    ]
    return stored(tmp_path_factory.mktemp("frames"), events)


def test_a_row_an_attempt_in_the_order_in_which_they_started(folder):
    runs = smarttuner.read_runs(data_dir=folder)
    assert runs["attempt"].tolist() == ["b", "a", "c", "d"]
    assert runs["run"].tolist() == ["r", "r", "s", "t"]
    assert list(runs)[:17] == list(pd.read_parquet(folder / "runs"))
    assert runs["started"][0] == pd.Timestamp(NOW, unit="s", tz="UTC")
    assert runs["config"][1] == {"lr": 0.1}
    assert runs["resumed_from_step"].tolist()[1] == 2
    assert runs["state"].isna().tolist() == [False, False, False, True]


def test_what_a_job_stated_is_flat_with_nan_where_another_did_not(folder):
    runs = smarttuner.read_runs(data_dir=folder)
    assert runs["params.lr"].tolist()[:2] == [0.5, 0.1]
    assert runs["params.lr"].dtype == np.float64
    assert runs["params.clip"].tolist()[0] == INF
    assert runs["params.model.act"].isna().tolist() == [False, True, True, True]
    assert runs["tags.who"].tolist()[0] == "ann"


def test_best_follows_the_goal_and_last_is_what_was_logged_last(folder):
    runs = smarttuner.read_runs(data_dir=folder).set_index("attempt")
    assert runs["best.loss"].to_dict() == {"b": 0.5, "a": 0.3, "c": 2.0, "d": 1.0}
    assert runs["best_step.loss"].to_dict() == {"b": 2.0, "a": 5.0, "c": 1.0, "d": 7.0}
    assert math.isnan(runs["last.loss"]["b"])
    assert (runs["best.acc"]["c"], runs["best_step.acc"]["c"], runs["last.acc"]["c"]) == (0.9, 2.0, 0.4)
    assert runs["best.acc"]["b"] == 0.1
    assert runs[["best.bad", "best_step.bad", "last.bad"]].isna().all(axis=None)
    goals = smarttuner.read_runs(goals={"acc": "max", "loss": "max"}, data_dir=folder).set_index("attempt")
    assert (goals["best.acc"]["b"], goals["best.loss"]["b"], goals["best_step.loss"]["b"]) == (0.2, 9.0, 1.0)


def test_the_goal_holds_for_the_judged_series_under_the_name_that_the_job_gives_it(tmp_path):
    started = RunEvent("r", "a", "started", NOW, 0, started=Started(monitor="val_accuracy", goal="max"))
    points = chunk("r", "a", 0, eval_acc=([1, 2, 3], [0.1, 0.7, 0.5]), val_loss=([1, 2, 3], [3.0, 1.0, 2.0]))
    runs = smarttuner.read_runs(data_dir=stored(tmp_path, [(RUNS, started), points]))
    assert runs[["best.eval_acc", "best_step.eval_acc", "best.val_loss"]].values.tolist() == [[0.7, 2.0, 1.0]]


def test_runs_and_series_can_be_named(folder):
    runs = smarttuner.read_runs("r", series="acc", data_dir=folder)
    assert runs["attempt"].tolist() == ["b", "a"]
    assert [name for name in runs if name.startswith(("best", "last"))] == ["best.acc", "best_step.acc", "last.acc"]
    assert smarttuner.read_runs(["s", "t"], data_dir=folder)["run"].tolist() == ["s", "t"]
    with pytest.raises(UsageError, match="goals="):
        smarttuner.read_runs(goals={"acc": "up"}, data_dir=folder)


def test_decisions_are_parsed_and_in_the_order_in_which_they_were_made(folder):
    decisions = smarttuner.read_decisions(data_dir=folder)
    assert list(decisions) == [*pd.read_parquet(folder / "decisions"), "hindsight"]
    assert decisions["id"].tolist() == ["d1", "d2"]
    assert decisions["params"].tolist() == [{}, {"factor": 0.5}]
    assert decisions["evidence"][0] == {"best": INF}
    assert decisions["before"].tolist() == [None, [0.1]]
    assert decisions["applied_step"].tolist()[1] == 4
    assert smarttuner.read_decisions("r", data_dir=folder)["id"].tolist() == ["d2"]


def test_nothing_stored_is_an_empty_frame_with_the_columns(folder, tmp_path):
    assert list(smarttuner.read_runs(data_dir=tmp_path / "none")) == list(pd.read_parquet(folder / "runs"))
    assert smarttuner.read_decisions(data_dir=tmp_path / "none").columns.tolist() == [
        *pd.read_parquet(folder / "decisions"),
        "hindsight",
    ]
    assert smarttuner.read_runs("nobody", data_dir=folder).empty


@pytest.mark.parametrize("how", ["url", "environment", "store", "relative"])
def test_a_store_elsewhere_is_read(folder, tmp_path, monkeypatch, how):
    data_dir = None
    if how == "url":
        data_dir = f"file://{folder}"
    elif how == "environment":
        monkeypatch.setenv("SMART_TUNER_DATA_DIR", f"file://{folder}")
    else:
        data_dir = folder / "host"
        data_dir.mkdir(exist_ok=True)
        monkeypatch.setenv("SMART_TUNER__STORE__URL", ".." if how == "relative" else str(folder))
    assert len(smarttuner.read_runs(data_dir=data_dir)) == 4
    assert len(smarttuner.read_decisions(data_dir=data_dir)) == 2
    assert len(smarttuner.read_metrics(series="acc", data_dir=data_dir)) == 3


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_however_points_lie_in_files_and_row_groups_the_summary_is_that_of_the_whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    store = MetricsStore(str(folder), ManualClock(NOW), seal_rows=data.draw(st.integers(2, 30)))
    values = st.sampled_from([0.0, 1.0, -2.0, 3.5, NAN, INF, -INF])
    points = data.draw(
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 9), values), min_size=1, max_size=60)
    )
    for i, (attempt, series, step, value) in enumerate(points):
        store.handle([Record(METRICS, 0, i, "r", encode(chunk("r", attempt, i, **{series: ([step], [value])})[1]), NOW)], NOW)
        if data.draw(st.booleans()):
            store.flush(NOW)
    store.flush(NOW)
    batch_rows, summaries.BATCH_ROWS = summaries.BATCH_ROWS, data.draw(st.integers(1, 20))
    try:
        found = summaries.summaries(folder, lambda attempt, series: "max" if series == "y" else "min")
    finally:
        summaries.BATCH_ROWS = batch_rows
    assert {(name.attempt, name.series) for name in found} == {point[:2] for point in points}
    for name, one in found.items():
        mine = [(step, value) for attempt, series, step, value in points if (attempt, series) == (name.attempt, name.series)]
        finite = [(step, value) for step, value in mine if math.isfinite(value)]
        best = (max if name.series == "y" else min)(finite, key=lambda point: point[1], default=(one.best_step, NAN))
        assert np.array_equal([one.best, one.best_step, one.last], [best[1], best[0], mine[-1][1]], equal_nan=True)
