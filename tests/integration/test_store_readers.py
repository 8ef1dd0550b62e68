"""Bare pandas readers beside a store that writes, seals and expires; a writer that is killed again and again."""

import pathlib
import struct
import subprocess
import sys

import pandas as pd
import pytest
from smarttuner.bus.local import LocalLog
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import MetricChunk, decode
from smarttuner.core.ports import METRICS

WRITER = pathlib.Path(__file__).with_name("store_writer.py")


def begin(*arguments):
    return subprocess.Popen([sys.executable, str(WRITER), *map(str, arguments)])


def test_a_thousand_bare_reads_find_every_row_once_while_files_grow_are_sealed_and_expire(tmp_path):
    board = tmp_path / "board"
    board.write_bytes(bytes(24))
    writer = begin("read", tmp_path, board)
    reads, seen_files, most_gone = 0, set(), 0
    try:
        while not (tmp_path / "metrics").is_dir() or not struct.unpack_from("q", board.read_bytes())[0]:
            assert writer.poll() is None
        while reads < 1000:
            visible = struct.unpack_from("q", board.read_bytes())[0]
            if reads % 5:
                rows = pd.read_parquet(tmp_path / "metrics", columns=["attempt", "series", "seq"])
            else:
                filters = [("series", "in", ["x", "y"])]
                rows = pd.read_parquet(tmp_path / "metrics", columns=["attempt", "series", "seq"], filters=filters)
            gone = struct.unpack_from("q", board.read_bytes(), 8)[0]
            positions = rows.seq.to_numpy()
            found = set(positions.tolist())
            assert len(found) == len(positions), "a row was read twice"
            missing = [p for p in range(gone, visible) if p not in found]
            assert not missing, f"{len(missing)} rows are missing from {missing[0]} on ({gone} expired, {visible} visible)"
            seen_files |= {path.name for path in (tmp_path / "metrics").iterdir() if not path.name.startswith(".")}
            most_gone = max(most_gone, gone)
            reads += 1
            assert writer.poll() is None
    finally:
        board.write_bytes(struct.pack("qqq", 0, 0, 1))
        writer.wait(20)
    left = [path for path in (tmp_path / "metrics").iterdir() if not path.name.startswith(".")]
    assert len(seen_files) > len(left) > 1, "nothing was unlinked: the test looked at too little"
    assert most_gone > 0


@pytest.mark.parametrize("kills", [25])
def test_a_writer_killed_at_any_moment_loses_and_doubles_nothing(tmp_path, kills):
    assert begin("killed", tmp_path, kills).wait(120) == 0
    clock = SystemClock()
    log = LocalLog(str(tmp_path), clock)
    try:
        store = MetricsStore(str(tmp_path), clock, seal_rows=7_000)
        bus = log.connect()
        while True:
            batch = bus.poll(store.topics, store.name, store.position)
            if not batch.records:
                break
            store.handle(batch.records, clock.now())
        store.flush(clock.now())
        published, position = [], 0
        while True:
            records, position = bus.follow(METRICS, "any", position)
            if not records:
                break
            published += [decode(record.body) for record in records]
        made = log.mark("made")
    finally:
        log.close()
    want = set()
    for chunk in published:
        assert isinstance(chunk, MetricChunk)
        for one, positions in chunk.positions():
            want.update((chunk.run, chunk.attempt, one.name, step, p) for step, p in zip(one.steps, positions, strict=True))
    rows = pd.read_parquet(tmp_path / "metrics")
    got = list(zip(rows.run, rows.attempt, rows.series, rows.step, rows.seq, strict=True))
    assert len(got) == len(set(got))
    assert set(got) == want
    assert len(want) == made * 100
    decisions = pd.read_parquet(tmp_path / "decisions")
    assert sorted(decisions.id) == sorted(f"d{i}" for i in range(made) if i % 5 == 0)
    assert set(decisions.status[decisions.id.isin([f"d{i}" for i in range(made - 3) if i % 5 == 0])]) == {"applied"}
    runs = pd.read_parquet(tmp_path / "runs")
    assert sorted(runs.attempt) == sorted({f"a{i // 40}-r{i % 3}" for i in range(made) if i % 40 < 3})
    assert not list(tmp_path.rglob(".tmp-*"))
