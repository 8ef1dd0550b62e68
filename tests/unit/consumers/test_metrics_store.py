"""Everything that was on the bus stands in the files once, whatever was repeated, killed or damaged in between."""

import gc
import os
import resource

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers import metric_partition, metrics_store, parquet_files, retention, tenure
from smarttuner.consumers.file_names import file_name
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.retention import Retention
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import ConfigError, Unavailable
from smarttuner.core.events import MetricChunk, Series, decode, encode
from smarttuner.core.ports import METRICS, Record

NOW = 1_700_000_000.0
ATTEMPT = "01HF7YAT00" + "0" * 16


def chunk(seq, n=10, series=("loss",), run="r", attempt=ATTEMPT, values=None):
    rows = [
        Series(
            name,
            list(range(seq, seq + n)),
            values or [0.5 * (seq + i) for i in range(n)],
            [NOW + seq + i for i in range(n)],
            [i * len(series) + k for i in range(n)],
        )
        for k, name in enumerate(series)
    ]
    return MetricChunk(run, attempt, "sdk", seq, rows)


def record(offset, event, topic=METRICS, partition=0):
    body = event if isinstance(event, bytes) else encode(event)
    return Record(topic, partition, offset, "r", body, NOW + offset)


def log(n, points=10, series=("loss",)):
    return [record(i * 3, chunk(i * points * len(series), points, series)) for i in range(n)]


def opened(folder, **options):
    return MetricsStore(str(folder), ManualClock(NOW), **options)


def feed(store, records):
    start = store.position((METRICS, 0))
    return store.handle([one for one in records if one.offset >= start], NOW)


def table(folder):
    return pd.read_parquet(folder / "metrics").sort_values(["series", "seq"], ignore_index=True)


def test_an_empty_store_reads_as_columns_without_rows(tmp_path):
    opened(tmp_path)
    assert list(pd.read_parquet(tmp_path / "metrics").columns) == parquet_files.METRICS_SCHEMA.names
    assert list(pd.read_parquet(tmp_path / "runs").columns) == parquet_files.RUNS_SCHEMA.names
    assert list(pd.read_parquet(tmp_path / "decisions").columns) == parquet_files.DECISIONS_SCHEMA.names


def test_a_row_holds_what_was_logged(tmp_path):
    store = opened(tmp_path)
    store.handle([record(7, chunk(0, 2, ("a", "b"), values=["NaN", "-Infinity"]))], NOW)
    store.flush(NOW)
    rows = table(tmp_path)
    assert rows[["run", "attempt", "series", "source"]].drop_duplicates().values.tolist() == [
        ["r", ATTEMPT, "a", "sdk"],
        ["r", ATTEMPT, "b", "sdk"],
    ]
    assert rows.seq.tolist() == [0, 2, 1, 3]
    assert rows.step.tolist() == [0, 1, 0, 1]
    assert rows.offset.tolist() == [7] * 4
    assert rows.partition.tolist() == [0] * 4
    assert rows.value.isna().tolist() == [True, False, True, False]
    assert rows.value[1] == float("-inf")
    assert rows.time[0] == pd.Timestamp(NOW, unit="s", tz="UTC")
    assert pq.read_schema(tmp_path / "metrics" / file_name(0, 0)).remove_metadata() == parquet_files.METRICS_SCHEMA


def test_rows_are_published_once_a_second_and_not_oftener_than_a_write_allows(tmp_path):
    store = opened(tmp_path)
    records = log(3)
    for i, one in enumerate(records):
        store.handle([one], NOW)
        store.tick(NOW + i * 0.5)
    assert len(table(tmp_path)) == 30
    store.handle([record(100, chunk(1000))], NOW)
    store.tick(NOW + 1.5)
    assert len(table(tmp_path)) == 30
    assert store.committed()[METRICS, 0] == records[-1].offset + 1
    store.tick(NOW + 2.1)
    assert len(table(tmp_path)) == 40
    assert store.committed()[METRICS, 0] == 101


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 39), st.integers(1, 25)), min_size=1, max_size=12),
    st.sets(st.integers(0, 11)),
    st.sets(st.integers(0, 11)),
    st.integers(20, 300),
)
def test_any_cut_and_repetition_of_chunks_and_any_kill_give_the_same_table(tmp_path_factory, cuts, kills, publishes, seal_rows):
    """A source of 200 points is shipped in chunks that overlap as they like; the store is killed and opened again."""
    folder = tmp_path_factory.mktemp("store")
    whole = chunk(0, 100, ("a", "b"))
    records, reached = [], 0
    for i, (back, length) in enumerate([*cuts, (0, 200)]):
        first = max(0, reached - back)
        last = min(200, first + length) if i < len(cuts) else 200
        records.append(record(i * 2, between(whole, first, max(first + 1, last))))
        reached = max(reached, last)
    store = opened(folder, seal_rows=seal_rows)
    for i, one in enumerate(records):
        feed(store, [one])
        if i in publishes:
            store.flush(NOW)
        if i in kills:
            store = opened(folder, seal_rows=seal_rows)
            feed(store, records[: i + 1])
    store.flush(NOW)
    rows = table(folder)
    assert sorted(rows.seq.tolist()) == list(range(200))
    assert (rows.value == rows.step * 0.5).all()
    assert store.position((METRICS, 0)) == records[-1].offset + 1


def between(whole, first, last):
    rows = []
    for one, positions in whole.positions():
        kept = [i for i, p in enumerate(positions) if first <= p < last]
        if kept:
            rows.append(
                Series(
                    one.name,
                    [one.steps[i] for i in kept],
                    [one.values[i] for i in kept],
                    [one.times[i] for i in kept],
                    [positions[i] - first for i in kept],
                )
            )
    return msgspec.structs.replace(whole, seq=first, series=rows)


def test_a_full_file_is_sealed_under_its_name_sorted_with_row_groups_of_one_series(tmp_path):
    store = opened(tmp_path, seal_rows=40_000)
    names = ("z", "a", "m")
    for one in log(14, 1000, names):
        store.handle([one], NOW)
        store.flush(NOW)
    (first,) = os.listdir(tmp_path / "metrics")
    with pq.ParquetFile(tmp_path / "metrics" / first, page_checksum_verification=True) as file:
        bounds = [file.metadata.row_group(g).column(3).statistics for g in range(file.num_row_groups)]
        assert [(one.min, one.max) for one in bounds] == [("a", "a"), ("m", "m"), ("z", "z")]
        assert file.read(columns=["series", "seq"]).to_pandas().groupby("series").seq.is_monotonic_increasing.all()
    assert len(table(tmp_path)) == 42_000
    store.handle([record(999, chunk(10**6))], NOW)
    store.flush(NOW)
    assert len(table(tmp_path)) == 42_010
    assert sorted(os.listdir(tmp_path / "metrics")) == [first, file_name(0, 13 * 3 + 1)]


def test_a_growing_file_copies_what_is_frozen_and_keeps_it_readable(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_partition, "GROUP_ROWS", 50)
    store = opened(tmp_path)
    records = log(60, 7, ("a", "b"))
    for i, one in enumerate(records):
        store.handle([one], NOW)
        if i % 3 == 0:
            store.flush(NOW)
            rows = table(tmp_path)
            assert len(rows) == 14 * (i + 1)
            assert not rows.duplicated(["series", "seq"]).any()
    assert len(os.listdir(tmp_path / "metrics")) == 1
    parquet_files.verify(str(tmp_path / "metrics" / file_name(0, 0)))


def test_records_seen_before_and_records_that_are_no_metrics_are_skipped_and_counted(tmp_path):
    store = opened(tmp_path)
    records = log(4)
    broken = [record(20, b"{"), record(21, b'{"kind":"notice","what":"w","text":"t","time":1}')]
    far = MetricChunk("r", ATTEMPT, "sdk", 1 << 70, [Series("loss", [1], [1.0], [NOW])])
    huge = MetricChunk("r", ATTEMPT, "sdk", 100, [Series("loss", [1, 1 << 70], [1.0, 2.0], [NOW, NOW])])
    store.handle([*records, *records[1:], *broken, record(22, far), record(23, huge), record(24, chunk(100))], NOW)
    store.flush(NOW)
    assert len(table(tmp_path)) == 50
    assert store.counters["repeated_records"] == 3
    assert store.counters["skipped_records"] == 4


def test_a_time_that_no_calendar_knows_becomes_the_time_of_the_append(tmp_path):
    store = opened(tmp_path)
    store.handle([record(5, MetricChunk("r", "a", "sdk", 0, [Series("x", [1, 2], [1.0, 2.0], [1e300, NOW])]))], NOW)
    store.flush(NOW)
    assert table(tmp_path).time.tolist() == [pd.Timestamp(NOW + 5, unit="s", tz="UTC"), pd.Timestamp(NOW, unit="s", tz="UTC")]


def damage(path, at=None):
    data = bytearray(path.read_bytes())
    if at is None:
        del data[len(data) // 2 :]
    else:
        data[at] ^= 0x20
    path.write_bytes(data)


@pytest.mark.parametrize("victim", [0, 1, 2, "growing"])
@pytest.mark.parametrize("at", [None, 200])
def test_a_damaged_file_is_set_aside_told_and_read_again_from_the_bus(tmp_path, victim, at):
    records = log(70)
    store = opened(tmp_path, seal_rows=200)
    for one in records:
        feed(store, [one])
        store.flush(NOW)
    files = sorted((tmp_path / "metrics").iterdir())
    assert len(files) == 4
    before = table(tmp_path)
    damage(files[-1 if victim == "growing" else victim], at)
    again = opened(tmp_path, seal_rows=200)
    assert again.counters["damaged_files"] == 1
    assert len(table(tmp_path)) < 700
    (told,) = feed(again, records)
    assert "damaged" in decode(told.body).text
    again.flush(NOW)
    pd.testing.assert_frame_equal(table(tmp_path)[["series", "seq", "value"]], before[["series", "seq", "value"]])
    assert opened(tmp_path, seal_rows=200).position((METRICS, 0)) == records[-1].offset + 1


def test_a_hole_that_the_bus_has_no_more_is_given_up_and_not_looked_for_again(tmp_path):
    records = log(70)
    store = opened(tmp_path, seal_rows=200)
    for one in records:
        feed(store, [one])
        store.flush(NOW)
    damage(sorted((tmp_path / "metrics").iterdir())[1])
    again = opened(tmp_path, seal_rows=200)
    assert again.position((METRICS, 0)) == records[19].offset + 1
    feed(again, [*records[30:], record(5000, chunk(10_000))])
    again.flush(NOW)
    assert len(table(tmp_path)) == 610
    assert opened(tmp_path, seal_rows=200).position((METRICS, 0)) == 5001


def test_a_kill_while_a_hole_is_read_again_loses_and_doubles_nothing(tmp_path):
    records = log(70)
    store = opened(tmp_path, seal_rows=200)
    for one in records:
        feed(store, [one])
        store.flush(NOW)
    before = table(tmp_path)
    files = sorted((tmp_path / "metrics").iterdir())
    damage(files[0])
    damage(files[2])
    for stop in (3, 7, 30, 50, 70):
        again = opened(tmp_path, seal_rows=200)
        feed(again, records[:stop])
        again.flush(NOW)
    pd.testing.assert_frame_equal(table(tmp_path)[["series", "seq", "value"]], before[["series", "seq", "value"]])


def test_what_a_kill_left_half_written_is_removed_at_start(tmp_path):
    opened(tmp_path)
    left = tmp_path / "metrics" / (".tmp-" + file_name(0, 0))
    left.write_bytes(b"PAR1")
    assert opened(tmp_path).counters["leftovers_removed"] == 1
    assert not left.exists()


def test_a_file_of_a_newer_version_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "VERSION", 2)
    opened(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"(?s)version 2.*--data-dir"):
        opened(tmp_path)


def test_a_full_disk_loses_nothing_and_it_goes_on_when_there_is_room(tmp_path):
    store = opened(tmp_path)
    store.handle(log(30, 1000), NOW)
    before = table(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(Unavailable, match="nothing is lost"):
            store.flush(NOW)
        pd.testing.assert_frame_equal(table(tmp_path), before)
        assert store.committed()[METRICS, 0] == 0
        assert not [name for name in os.listdir(tmp_path / "metrics") if name.startswith(".")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.handle(log(31, 1000), NOW)
    store.flush(NOW)
    assert sorted(table(tmp_path).seq.tolist()) == list(range(31_000))


def test_old_files_are_emptied_and_unlinked_when_nobody_listed_the_folder_for_an_hour(tmp_path):
    store = opened(tmp_path, seal_rows=200, retention=Retention(age_s=1000.0))
    for one in log(70):
        feed(store, [one])
        store.flush(NOW)
    names = sorted(os.listdir(tmp_path / "metrics"))
    store.tick(NOW + 1000 + 100)
    assert sorted(os.listdir(tmp_path / "metrics")) == names
    assert table(tmp_path).offset.min() > 59
    store.tick(NOW + 6000)  # notices the listing just now
    assert len(names) == len(os.listdir(tmp_path / "metrics"))
    assert table(tmp_path).empty
    store.tick(NOW + 6100)
    store.tick(NOW + 6100 + 3500)
    assert store.counters["removed_files"] == 0
    store.tick(NOW + 6100 + 3601)
    assert store.counters["removed_files"] == 3
    assert len(os.listdir(tmp_path / "metrics")) == 1
    position = store.position((METRICS, 0))
    assert opened(tmp_path).position((METRICS, 0)) == position == 69 * 3 + 1
    feed(store, [record(5000, chunk(10_000))])
    store.flush(NOW)
    assert len(table(tmp_path)) == 10


def test_the_oldest_rows_go_when_the_files_are_too_large_together(tmp_path):
    store = opened(tmp_path, seal_rows=200, retention=Retention(size_bytes=10_000))
    for one in log(100):
        feed(store, [one])
        store.flush(NOW)
    store.tick(NOW)
    rows = table(tmp_path)
    assert 0 < len(rows) < 1000
    assert rows.seq.max() == 999


def test_emptied_files_are_not_kept_without_limit_for_somebody_who_lists_the_folder_all_day(tmp_path, monkeypatch):
    monkeypatch.setattr(retention, "MAX_EMPTIED", 2)
    store = opened(tmp_path, seal_rows=20, retention=Retention(age_s=1000.0))
    for one in log(12):
        feed(store, [one])
        store.flush(NOW)
    store.tick(NOW + 3000)
    assert len(table(tmp_path)) == 0
    assert store.counters["expired_files"] == 6
    assert len(os.listdir(tmp_path / "metrics")) == 3


def test_a_foreign_file_is_not_taken_for_ours(tmp_path):
    opened(tmp_path)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "metrics" / file_name(0, 9))
    store = opened(tmp_path)
    assert store.counters["damaged_files"] == 1
    assert "somebody else" in decode(store.handle([], NOW)[0].body).text


def test_after_a_step_that_failed_halfway_the_store_goes_on_from_its_files(tmp_path, monkeypatch):
    store = opened(tmp_path)
    records = log(40)
    feed(store, records[:10])
    store.flush(NOW)
    size_of = os.path.getsize  # that of another test's log, whose thread has not ended yet, is its own affair
    monkeypatch.setattr(tenure.os.path, "getsize", lambda path: 1 / 0 if str(tmp_path) in str(path) else size_of(path))
    feed(store, records[10:20])
    with pytest.raises(ZeroDivisionError):
        store.flush(NOW)
    monkeypatch.undo()
    store.reload()
    assert store.position((METRICS, 0)) == store.committed()[METRICS, 0]
    feed(store, records)
    store.flush(NOW)
    assert sorted(table(tmp_path).seq.tolist()) == list(range(400))


def test_a_store_that_is_forgotten_or_reloaded_leaves_no_descriptor_open(tmp_path):
    for i in range(5):
        store = opened(tmp_path)
        feed(store, log(i + 2))
        store.flush(NOW)
        store._torn = True
        store.reload()
    del store
    gc.collect()
    held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert not [path for path in held if path.startswith(str(tmp_path))]


def test_files_that_the_start_had_no_time_to_check_are_checked_later(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_store, "VERIFY_AT_START_S", 0.0)
    records = log(70)
    store = opened(tmp_path, seal_rows=200)
    for one in records:
        feed(store, [one])
        store.flush(NOW)
    before = table(tmp_path)
    damage(sorted((tmp_path / "metrics").iterdir())[1], 200)
    store = opened(tmp_path, seal_rows=200)
    assert store.counters["damaged_files"] == 0
    for i in range(4):
        store.tick(NOW + 100 * i)
    assert store.counters["damaged_files"] == 1
    assert len(table(tmp_path)) == 500
    store = opened(tmp_path, seal_rows=200)
    feed(store, records)
    store.flush(NOW)
    pd.testing.assert_frame_equal(table(tmp_path)[["series", "seq", "value"]], before[["series", "seq", "value"]])


def test_a_clock_that_is_put_back_does_not_hold_rows_back(tmp_path):
    store = opened(tmp_path)
    store.handle(log(1), NOW)
    store.tick(NOW)
    store.handle(log(2), NOW - 7200)
    store.tick(NOW - 7200)
    assert len(table(tmp_path)) == 20


def test_what_is_remembered_of_sources_is_bounded_the_least_recent_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_partition, "MAX_MARKS", 3)
    store = opened(tmp_path)
    for i in range(6):
        store.handle([record(i, chunk(0, run=f"r{i}"))], NOW)
        store.flush(NOW)
    facts, _ = parquet_files.read_facts(str(tmp_path / "metrics" / file_name(0, 0)))
    assert [run for run, *_ in facts["marks"]] == ["r3", "r4", "r5"]


def test_a_sealed_file_has_one_row_group_for_a_series_also_where_it_was_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_partition, "GROUP_ROWS", 6_000)
    store = opened(tmp_path, seal_rows=20_000)
    for one in log(20, 500, ("b", "a")):
        store.handle([one], NOW)
        store.flush(NOW)
    with pq.ParquetFile(tmp_path / "metrics" / file_name(0, 0)) as file:
        groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
        assert [(one.num_rows, one.column(3).statistics.min, one.column(3).statistics.max) for one in groups] == [
            (10_000, "a", "a"),
            (10_000, "b", "b"),
        ]


def test_a_partition_that_has_no_files_yet_begins_like_the_first(tmp_path):
    store = opened(tmp_path)
    store.handle([record(5, chunk(0, 2)), record(3, chunk(0, 2, attempt="B"), partition=3)], NOW)
    store.flush(NOW)
    assert sorted(table(tmp_path).partition) == [0, 0, 3, 3]
    again = opened(tmp_path)
    assert [again.position((METRICS, n)) for n in (0, 1, 3)] == [6, 0, 4]
