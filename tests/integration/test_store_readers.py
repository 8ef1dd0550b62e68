"""Bare pandas readers beside a store that writes, seals and expires; a writer that is killed again and again."""

import mmap
import pathlib
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from smarttuner.bus.local import LocalLog
from smarttuner.consumers.file_names import file_name
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import MetricChunk, decode
from smarttuner.core.ports import METRICS

WRITER = pathlib.Path(__file__).with_name("store_writer.py")


def begin(*arguments):
    return subprocess.Popen([sys.executable, str(WRITER), *map(str, arguments)])


def wait_for_the_end_of(path, board, writer):
    """Nobody lists the folder for an hour and more of the store's clock: emptied files may go."""
    deadline = time.monotonic() + 100
    while path.exists():
        board[3] += 2
        time.sleep(0.05)
        assert writer.poll() is None
        assert time.monotonic() < deadline, f"{path.name} is there still, {board[3]} reads after"


def test_a_thousand_bare_reads_find_every_row_once_while_files_grow_are_sealed_and_expire(tmp_path):
    path = tmp_path / "board"
    path.write_bytes(bytes(32))
    with path.open("r+b") as file:
        board = memoryview(mmap.mmap(file.fileno(), 32)).cast("q")
    writer = begin("read", tmp_path, path)
    reads, most_gone, first = 0, 0, tmp_path / "metrics" / file_name(0, 0)
    try:
        while not board[0]:
            assert writer.poll() is None
            time.sleep(0.01)
        while reads < 1000:
            visible = board[0]
            if reads % 5:
                rows = pd.read_parquet(tmp_path / "metrics", columns=["attempt", "series", "seq"])
            else:
                filters = [("series", "in", ["x", "y"])]
                rows = pd.read_parquet(tmp_path / "metrics", columns=["attempt", "series", "seq"], filters=filters)
            gone = board[1]
            found = np.unique(rows.seq.to_numpy())
            assert len(found) == len(rows), "a row was read twice"
            missing = visible - gone - np.count_nonzero((found >= gone) & (found < visible))
            assert missing <= 0, f"{missing} rows are missing ({gone} expired, {visible} visible)"
            most_gone = max(most_gone, gone)
            reads += 1
            board[3] += 1
            assert writer.poll() is None
            if reads == 500:
                wait_for_the_end_of(first, board, writer)
    finally:
        board[2] = 1
        writer.wait(20)
    assert most_gone > 0
    assert not first.exists()


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
