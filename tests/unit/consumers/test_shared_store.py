"""Several stores in one folder: each touches only what it holds, and partitions go from one to the other whole."""

import os
import sys

import pandas as pd
import pytest
from smarttuner.consumers import tenure
from smarttuner.consumers.file_names import DAMAGED, file_name
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.retention import Retention
from smarttuner.consumers.tenure import WRITING, Directory, Fenced
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import Unavailable
from smarttuner.core.events import MetricChunk, RunEvent, Series, Started, decode, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record

NOW = 1_700_000_000.0


def opened(folder, now=NOW, **options):
    clock = ManualClock(now)
    return MetricsStore("nowhere", clock, place=Directory(str(folder), clock, shared=True), **options)


def points(partition, n, count=10):
    body = MetricChunk(f"r{partition}", "a", "sdk", n * count, [Series("x", list(range(count)), [1.0] * count, [NOW] * count)])
    return Record(METRICS, partition, n, f"r{partition}", encode(body), NOW + n)


def started(partition, n):
    return Record(
        RUNS, partition, n, "r", encode(RunEvent(f"r{partition}", f"a{n}", "started", NOW, 0, started=Started())), NOW + n
    )


def log(partition, n):
    return [points(partition, i) if i % 4 else started(partition, i) for i in range(n)]


def feed(store, partition, n):
    """Assigns the partition and folds its records before offset n."""
    at = {topic: store.position((topic, partition)) for topic in (METRICS, RUNS, CONTROL)}
    store.handle([one for one in log(partition, n) if one.offset >= at[one.topic]], NOW)
    return store


def stored(folder):
    """(partition, position) of every point, sorted."""
    rows = pd.read_parquet(folder / "metrics")
    return sorted(zip(rows.partition, rows.seq, strict=True))


def wanted(*ends):
    return [(number, p) for number, n in enumerate(ends) for i in range(n) if i % 4 for p in range(i * 10, i * 10 + 10)]


def all_files(folder):
    return {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def test_a_store_that_holds_nothing_touches_nothing(tmp_path):
    first = feed(opened(tmp_path, seal_rows=50), 1, 40)
    first.flush(NOW)
    feed(first, 1, 60)
    (tmp_path / "metrics" / ".tmp-1-left").write_bytes(b"x")
    (tmp_path / "metrics" / file_name(1, 99999)).write_bytes(b"damaged")
    before = all_files(tmp_path)
    other = opened(tmp_path, retention=Retention(age_s=1.0))
    other.tick(NOW + 1e6)
    other.flush(NOW + 1e6)
    other.reload()
    feed(other, 0, 8)
    other.flush(NOW)
    assert {path: inode for path, inode in all_files(tmp_path).items() if not path.name.startswith("0-")} == before
    assert other.counters["partitions"] == 1
    assert set(other.committed()) == {(topic, 0) for topic in (METRICS, RUNS, CONTROL)}


def test_a_partition_that_is_revoked_is_published_let_go_and_goes_on_elsewhere(tmp_path):
    one, other = opened(tmp_path), opened(tmp_path)
    feed(feed(one, 0, 20), 1, 30)
    one.revoke([(METRICS, 1), (RUNS, 1), (CONTROL, 1)])
    assert stored(tmp_path) == wanted(0, 30)
    assert {number for _, number in one.committed()} == {0}
    assert other.position((METRICS, 1)) == 30
    feed(other, 1, 50)
    other.flush(NOW)
    one.flush(NOW)
    assert stored(tmp_path) == wanted(20, 50)
    assert len(os.listdir(tmp_path / WRITING)) == 2
    with pytest.raises(Unavailable, match="another daemon's"):
        one.handle([points(1, 30)], NOW)
    assert (one.counters["partitions_let_go"], one.counters["fenced"]) == (1, 0)
    assert one.position((METRICS, 1)) == 50  # given back
    feed(one, 1, 60)
    one.flush(NOW)
    assert stored(tmp_path) == wanted(20, 60)


@pytest.mark.parametrize("seal_rows", [1000, 30])
def test_what_a_store_publishes_after_a_takeover_is_fenced_told_and_read_again_where_it_is_held(tmp_path, seal_rows):
    late, other = opened(tmp_path, seal_rows=seal_rows), opened(tmp_path, seal_rows=seal_rows)
    feed(feed(late, 0, 4), 1, 10)
    late.flush(NOW)
    feed(feed(late, 0, 12), 1, 25)
    feed(other, 1, 15)
    other.flush(NOW)
    with pytest.raises(Fenced) as raised:
        late.flush(NOW)
    assert raised.value.number == 1
    assert stored(tmp_path) == wanted(12, 15)  # what it holds still is published all the same
    (told,) = late.handle([], NOW)
    assert decode(told.body).what == "fenced"
    assert late.counters["fenced"] == 1
    late.reload()
    assert late.committed() == {}
    feed(late, 0, 14).flush(NOW)
    feed(other, 1, 40).flush(NOW)
    assert stored(tmp_path) == wanted(14, 40)
    assert late.counters["fenced"] == 1


def test_a_store_that_asks_again_after_somebody_else_had_the_partition_begins_from_the_files(tmp_path):
    late, other = opened(tmp_path), opened(tmp_path)
    feed(late, 0, 30)
    feed(other, 0, 10)
    other.revoke([(METRICS, 0)])
    assert late.position((METRICS, 0)) == 10
    feed(late, 0, 30).flush(NOW)
    assert stored(tmp_path) == wanted(30)


def test_a_late_store_sets_nothing_aside_and_removes_nothing(tmp_path):
    late, other = opened(tmp_path, seal_rows=30), opened(tmp_path, seal_rows=30)
    feed(late, 0, 20).flush(NOW)
    first = str(tmp_path / "metrics" / file_name(0, 0))
    held = late._held[0].tenure
    feed(other, 0, 20)
    for change in (held.set_aside, held.remove):
        with pytest.raises(Fenced):
            change(first)
    assert stored(tmp_path) == wanted(20)
    assert opened(tmp_path).position((METRICS, 0)) == 20


def test_a_damaged_file_is_set_aside_by_who_holds_it_and_filled_again_by_whoever_does_then(tmp_path):
    feed(opened(tmp_path, seal_rows=30), 0, 20).flush(NOW)
    first = tmp_path / "metrics" / file_name(0, 0)
    first.write_bytes(b"PAR1 no more")
    one = opened(tmp_path, seal_rows=30)
    assert one.position((METRICS, 0)) == 0
    assert (tmp_path / "metrics" / (DAMAGED + first.name)).read_bytes() == b"PAR1 no more"
    feed(opened(tmp_path, seal_rows=30), 0, 20).flush(NOW)
    assert stored(tmp_path) == wanted(20)


def test_two_that_take_over_at_once_never_both_hold(tmp_path, monkeypatch):
    """The other one takes over in each pause between two steps of the first."""
    steps = ("mkdir", "listdir", "rmdir", "open")
    for number, step in enumerate(steps):
        both, whole = [], getattr(os, step)

        def interrupted(*arguments, _whole=whole, _step=step, _both=both, _number=number):
            done = _whole(*arguments)
            if not str(arguments[0]).startswith(str(tmp_path)):  # another thread's: all of the process have this os
                return done
            monkeypatch.setattr(tenure.os, _step, _whole)
            _both.append(feed(opened(tmp_path), _number, 10))
            return done

        feed(opened(tmp_path), number, 4).flush(NOW)
        monkeypatch.setattr(tenure.os, step, interrupted)
        try:
            both.append(feed(opened(tmp_path), number, 20))
        except Fenced:
            pass
        finally:
            monkeypatch.setattr(tenure.os, step, whole)
        fenced = 0
        for one in both:
            try:
                one.flush(NOW)
            except Fenced:
                fenced += 1
        assert fenced >= len(both) - 1
        feed(opened(tmp_path), number, 20).flush(NOW)
    assert stored(tmp_path) == wanted(20, 20, 20, 20)


def lines_of_a_takeover(work, at=None, then=None):
    """Counts the lines of the store's files that `work` runs; before line `at` it runs `then`."""
    folder, count = os.path.dirname(tenure.__file__), 0

    def line(frame, event, argument):
        nonlocal count
        if event == "line":
            count += 1
            if count == at:
                sys.settrace(None)
                then()
                sys.settrace(trace)
        return line

    def trace(frame, event, argument):
        return line if os.path.dirname(frame.f_code.co_filename) == folder else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_what_a_holder_publishes_before_any_line_of_a_takeover_is_gone_on_with_or_refused(tmp_path):
    def takeover(number, at=None):
        folder = tmp_path / str(number)
        late, other = opened(folder, seal_rows=200), opened(folder, seal_rows=200)
        feed(late, 0, 10).flush(NOW)
        feed(late, 0, 60)

        def publish():
            try:
                late.flush(NOW)
            except Fenced:
                refused.append(at)
            else:
                published.append(at)

        count = lines_of_a_takeover(lambda: other.position((METRICS, 0)), at, publish)
        seen = stored(folder)
        feed(other, 0, 30).flush(NOW)
        assert set(stored(folder)) >= set(seen)
        assert len(stored(folder)) == len(set(stored(folder)))
        feed(other, 0, 70).flush(NOW)
        assert stored(folder) == wanted(70)
        return count

    published, refused = [], []
    lines = takeover(0)
    for number, at in enumerate(range(1, lines, 9)):
        takeover(number + 1, at)
    assert len(published) > 2
    assert len(refused) > 10
    assert max(published) < min(refused)


def test_a_folder_that_somebody_writes_into_all_the_time_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    late = feed(opened(tmp_path), 0, 10)
    mine = late._held[0].tenure._mine
    rmdir = os.rmdir

    def busy(path):
        if str(path).startswith(str(tmp_path)):
            open(os.path.join(mine, "x"), "w").close()
        rmdir(path)

    monkeypatch.setattr(tenure.os, "rmdir", busy)
    with pytest.raises(Unavailable, match="end the process"):
        opened(tmp_path).position((METRICS, 0))
    assert os.listdir(tmp_path / WRITING) == [os.path.basename(mine)]


def test_files_that_readers_of_other_hosts_may_have_listed_stay_until_there_are_too_many(tmp_path):
    store = feed(opened(tmp_path, seal_rows=20, retention=Retention(age_s=100.0)), 0, 40)
    for n in range(10, 41, 10):
        feed(store, 0, n).flush(NOW)
    store = opened(tmp_path, seal_rows=20, retention=Retention(age_s=100.0))
    for i in range(30):
        feed(store, 0, 41 + i * 4)
        store.flush(NOW)
        store.tick(NOW + 1000 + i * 10_000)
    assert store.counters["expired_files"] > 5
    assert store.counters["removed_files"] == 0
