"""`runs/` and `decisions/` hold one row each, whatever was repeated, late, killed or damaged."""

import json

import msgspec
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers import row_files, runs_table
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.parquet_files import RUNS_SCHEMA
from smarttuner.consumers.reading import run_rows
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import Ack, Decision, RunEvent, Started, encode
from smarttuner.core.ports import CONTROL, RUNS, Record

NOW = 1_700_000_000.0


def opened(folder):
    return MetricsStore(str(folder), ManualClock(NOW))


def record(topic, offset, event):
    return Record(topic, 0, offset, "r", encode(event), NOW + offset)


def started(attempt, run="r", **said):
    return RunEvent(run, attempt, "started", NOW, 0, group="g", started=Started(**said))


def ended(attempt, state="finished", seq=9, run="r"):
    return RunEvent(run, attempt, "ended", NOW + 60, seq, group="g", state=state, ended_by="exit 0")


def decision(name="d1", **changes):
    base = Decision(
        name, "r", "a", "scale-lr", "plateau", "sdk:7", "flat", NOW, NOW + 600, step=7, params={"factor": 0.5}, mode="act"
    )
    return msgspec.structs.replace(base, **changes)


def ack(status="applied", name="d1", **changes):
    base = Ack(name, "r", "a", status, NOW + 0.25, step=8, before=[0.1], after=[0.05])
    return msgspec.structs.replace(base, **changes)


def rows(folder, name):
    return pd.read_parquet(folder / name)


def test_an_attempt_is_one_row_numbered_within_its_run(tmp_path):
    store = opened(tmp_path)
    first = started("a", host="h", user="u", monitor="val_loss", goal="min", tags={"x": 1}, config={"lr": float("nan")})
    stated = Started(**(msgspec.structs.asdict(first.started) | {"total_steps": 1000, "policies": {"patience": {"patience": 3}}}))
    first = msgspec.structs.replace(first, started=stated)
    store.handle([record(RUNS, 3, first), record(RUNS, 4, started("b", resume_from_step=5)), record(RUNS, 5, ended("a"))], NOW)
    store.flush(NOW)
    one, two = rows(tmp_path, "runs").astype(object).where(lambda x: x.notna(), None).to_dict("records")
    assert one == {
        "run": "r",
        "attempt": "a",
        "attempt_number": 1,
        "state": "finished",
        "ended_by": "exit 0",
        "user": "u",
        "host": "h",
        "group": "g",
        "tags": '{"x":1}',
        "config": '{"lr":"NaN"}',
        "resumed_from_step": None,
        "monitor": "val_loss",
        "goal": "min",
        "started": pd.Timestamp(NOW, unit="s", tz="UTC"),
        "ended": pd.Timestamp(NOW + 60, unit="s", tz="UTC"),
        "total_steps": 1000,
        "policies": '{"patience":{"patience":3}}',
    }
    assert (two["attempt_number"], two["state"], two["resumed_from_step"]) == (2, "running", 5)


def test_a_file_from_before_a_column_was_added_is_read_and_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(runs_table, "RUNS_SCHEMA", pa.schema(list(RUNS_SCHEMA)[:15]))
        store = opened(tmp_path)
        store.handle([record(RUNS, 0, started("a", total_steps=10))], NOW)
        store.flush(NOW)
    assert "total_steps" not in rows(tmp_path, "runs")
    assert [(one["attempt"], one["total_steps"], one["policies"]) for one in run_rows(tmp_path)] == [("a", None, None)]
    store = opened(tmp_path)
    store.handle([record(RUNS, 1, ended("a")), record(RUNS, 2, started("b", total_steps=20))], NOW)
    store.flush(NOW)
    found = {one["attempt"]: (one["state"], one["total_steps"], one["policies"]) for one in run_rows(tmp_path)}
    assert found == {"a": ("finished", None, {}), "b": ("running", 20, {})}


def test_a_decision_and_its_answer_are_one_row(tmp_path):
    store = opened(tmp_path)
    store.handle([record(CONTROL, 0, decision(evidence={"best": float("inf")})), record(RUNS, 0, ack())], NOW)
    store.flush(NOW)
    (row,) = rows(tmp_path, "decisions").to_dict("records")
    assert (row["status"], row["applied_step"], row["before"], row["after"], row["latency_ms"]) == (
        "applied",
        8,
        "[0.1]",
        "[0.05]",
        250.0,
    )
    assert (json.loads(row["params"]), json.loads(row["evidence"])) == ({"factor": 0.5}, {"best": "Infinity"})


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        (["expired", "applied"], "applied"),
        (["applied", "expired"], "applied"),
        (["expired", "refused"], "refused"),
        (["refused", "failed"], "failed"),
        (["failed", "refused"], "failed"),
        ([], "pending"),
    ],
)
@pytest.mark.parametrize("decision_at", [0, 1, 2])
def test_what_the_job_did_wins_over_a_guess_also_when_it_comes_before_the_decision(tmp_path, answers, status, decision_at):
    records = [record(RUNS, i, ack(one, reason="why")) for i, one in enumerate(answers)]
    records.insert(decision_at, record(CONTROL, 0, decision()))
    for i, one in enumerate(records):
        store = opened(tmp_path)  # killed after every record
        store.handle([*records[:i], one], NOW)
        store.flush(NOW)
    (row,) = rows(tmp_path, "decisions").to_dict("records")
    assert row["status"] == status
    if status == "refused":
        assert row["refused_by"] == "job: why"


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_kills_between_publishes_and_repetitions_give_the_same_tables(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("tables")
    plain, rough = folder / "plain", folder / "rough"
    events = []
    for i in range(6):
        events += [(RUNS, started(f"a{i}", run=f"r{i % 3}")), (CONTROL, decision(f"d{i}")), (RUNS, ack(name=f"d{i}"))]
        events.append((RUNS, ended(f"a{i}", run=f"r{i % 3}", state="lost" if i % 2 else "finished")))
    events += [(RUNS, RunEvent("r1", "a1", "note", NOW + 99, 12)), (RUNS, ended("a1", "failed", 13, "r1"))]
    events = data.draw(st.permutations(events))
    counts = {RUNS: 0, CONTROL: 0}
    records = []
    for topic, event in events:
        records.append(record(topic, counts[topic], event))
        counts[topic] += 1
    before = row_files.MAX_ROWS
    row_files.MAX_ROWS = 3
    try:
        store = opened(plain)
        store.handle(records, NOW)
        store.flush(NOW)
        store = opened(rough)
        for i, one in enumerate(records):
            store.handle([one], NOW)
            if data.draw(st.booleans()):
                store.flush(NOW)
            if data.draw(st.integers(0, 4)) == 0:
                store = opened(rough)
                positions = {(topic, 0): store.position((topic, 0)) for topic in counts}
                store.handle([r for r in records[: i + 1] if r.offset >= positions[r.topic, 0]], NOW)
        store.flush(NOW)
    finally:
        row_files.MAX_ROWS = before
    for name, key in (("runs", "attempt"), ("decisions", "id")):
        a, b = (rows(one, name).sort_values(key, ignore_index=True) for one in (plain, rough))
        pd.testing.assert_frame_equal(a, b)


@pytest.mark.parametrize("victim", [0, 2, -1])
@pytest.mark.parametrize("name", ["runs", "decisions"])
def test_rows_of_a_damaged_file_come_back_from_the_bus_and_no_other_row_twice(tmp_path, monkeypatch, name, victim):
    monkeypatch.setattr(row_files, "MAX_ROWS", 3)
    records = []
    for i in range(14):
        records += [record(RUNS, 2 * i, started(f"a{i}")), record(CONTROL, i, decision(f"d{i}"))]
        records.append(record(RUNS, 2 * i + 1, ack(name=f"d{i}")))
    store = opened(tmp_path)
    for one in records:
        store.handle([one], NOW)
        store.flush(NOW)
    before = rows(tmp_path, name).sort_values(list(rows(tmp_path, name))[:2], ignore_index=True)
    files = sorted((tmp_path / name).iterdir())
    assert len(files) >= 4
    files[victim].write_bytes(files[victim].read_bytes()[:-50])
    again = opened(tmp_path)
    assert again.counters["damaged_files"] == 1
    killed = opened(tmp_path)
    positions = {(topic, 0): killed.position((topic, 0)) for topic in (RUNS, CONTROL)}
    killed.handle([r for r in records if r.offset >= positions[r.topic, 0]], NOW)
    killed.flush(NOW)
    after = rows(tmp_path, name).sort_values(list(before)[:2], ignore_index=True)
    pd.testing.assert_frame_equal(before, after)


def test_old_rows_are_not_written_again_when_new_ones_come(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MAX_ROWS", 3)
    store = opened(tmp_path)
    for i in range(9):
        store.handle([record(CONTROL, i, decision(f"d{i}"))], NOW)
        store.flush(NOW)
    first, *_ = sorted((tmp_path / "decisions").iterdir())
    inode = first.stat().st_ino
    store.handle([record(CONTROL, 20, decision("d20"))], NOW)
    store.flush(NOW)
    assert first.stat().st_ino == inode
    store.handle([record(RUNS, 20, ack(name="d0"))], NOW)
    store.flush(NOW)
    assert first.stat().st_ino != inode
    assert len(rows(tmp_path, "decisions")) == 10
