"""A daemon put together from a configuration: what the file says reaches the part that it is about."""

import os
import time

import pytest
from smarttuner.bus.doorbell import Doorbell
from smarttuner.bus.places import Place
from smarttuner.bus.spool import Spool
from smarttuner.consumers.reading import metric_table
from smarttuner.consumers.store_url import open_place
from smarttuner.core.clock import ManualClock, SystemClock
from smarttuner.core.errors import ConfigError
from smarttuner.core.events import MetricChunk, Series, encode
from smarttuner.core.ports import METRICS, Message, Record
from smarttuner.core.switches import ALL, Switch
from smarttuner.daemon import wiring
from smarttuner.daemon.config import load
from smarttuner.daemon.edge_line import Peer
from smarttuner.daemon.wiring import Host

DAY_S = 86_400.0


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Makes hosts; the threads and files of one that was refused end with the test, too."""
    hosts, grounds, ground_of = [], [], wiring.ground_of

    def kept(*given):
        grounds.append(ground_of(*given))
        return grounds[-1]

    monkeypatch.setattr(wiring, "ground_of", kept)

    def make(text, url="local:", clock=None):
        file = tmp_path / "c.yaml"
        file.write_text(text)
        folder = tmp_path / f"data{len(hosts)}"
        host = Host(Place(folder, url, "argument"), load(file, {}), {"HOME": str(tmp_path)}, clock or ManualClock())
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()
    for ground in grounds:
        if ground not in [host.ground for host in hosts]:
            ground.close()


def chunk(first, points=100, series="loss"):
    steps = list(range(first, first + points))
    return encode(MetricChunk("r", "A", "sdk", first, [Series(series, steps, [0.123456789] * points, [1.7e9] * points)]))


def earliest(host):
    return host.bus.connect().poll([METRICS], "reader", limit=1).records[0].offset


@pytest.mark.parametrize(("text", "kept"), [("{}", True), ("bus: {retention_bytes: 1MiB}", False)])
def test_the_log_keeps_as_many_bytes_as_written(build, text, kept):
    host = build(text)
    host.bus.connect().publish([Message(METRICS, "r", chunk(100 * i) + b" " * 1000) for i in range(2000)])
    host.bus.maintain()
    assert (earliest(host) == 0) is kept


@pytest.mark.parametrize(("text", "kept"), [("{}", True), ("bus: {retention_s: 1h}", False)])
def test_the_log_keeps_records_as_long_as_written(build, text, kept):
    host = build(text)
    host.bus.connect().publish([Message(METRICS, "r", chunk(0))])
    host.clock.turn(2 * 3600.0)
    host.bus.connect().publish([Message(METRICS, "r", chunk(100))])
    host.bus.maintain()
    assert (earliest(host) == 0) is kept


def store_points(host, count, start=0):
    records = [Record(METRICS, 0, start + i, "r", chunk(100 * (start + i)), host.clock.now()) for i in range(count)]
    host.store.handle(records, host.clock.now())


def visible(host):
    import pandas

    return len(pandas.read_parquet(host.folder / "metrics"))


@pytest.mark.parametrize(("text", "files"), [("{}", 1), ("store: {seal_rows: 1000}", 3)])
def test_a_metrics_file_is_sealed_at_as_many_rows_as_written(build, text, files):
    host = build(text)
    for i in range(2):
        store_points(host, 10, 10 * i)
        host.store.flush(host.clock.now())
    store_points(host, 1, 20)
    host.store.flush(host.clock.now())
    assert len([name for name in os.listdir(host.folder / "metrics") if not name.startswith(".")]) == files


@pytest.mark.parametrize("form", ["{}", "store: {{url: '{}'}}", "store: {{url: 'file://{}'}}", "store: {{url: elsewhere}}"])
def test_the_store_lies_where_the_file_says(build, tmp_path, form):
    host = build(form.format(tmp_path / "shared") if "{}'" in form else form.replace("{{", "{").replace("}}", "}"))
    store_points(host, 1)
    host.store.flush(host.clock.now())
    folder = host.folder if form == "{}" else host.folder / "elsewhere" if "elsewhere" in form else tmp_path / "shared"
    assert len(metric_table(folder, attempts="all")) == 100
    assert (host.folder / "metrics").exists() == (form == "{}")


def test_a_store_is_filled_from_one_log_for_its_files_say_where_to_go_on_there(build, tmp_path):
    text = f"store: {{url: '{tmp_path / 'shared'}'}}"
    first = build(text)
    store_points(first, 1)
    first.store.flush(first.clock.now())
    open_place(str(tmp_path / "shared"), str(first.folder), first.clock, shared=False)  # the same daemon, started again
    with pytest.raises(ConfigError, match="this daemon reads kafka"):
        open_place(None, str(build("{}").folder), first.clock, shared=True, log="kafka a.b")
    with pytest.raises(ConfigError, match="filled from another log"):
        build(text)


def test_a_store_that_is_nowhere_is_refused_with_what_to_write(build):
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        build("store: {url: 'ftp://host/x'}")


@pytest.mark.parametrize(("text", "rows"), [("{}", 200), ("store: {publish_s: 30}", 100)])
def test_rows_are_published_as_often_as_written(build, text, rows):
    host = build(text)
    for i in range(2):
        store_points(host, 1, i)
        host.store.tick(host.clock.now())
        host.clock.turn(5.0)
    assert visible(host) == rows


@pytest.mark.parametrize(("text", "rows"), [("{}", 100), ("store: {retention_days: 1}", 0)])
def test_metrics_leave_the_store_at_the_age_written(build, text, rows):
    host = build(text)
    store_points(host, 1)
    host.store.flush(host.clock.now())
    host.clock.turn(3 * DAY_S)
    for _ in range(3):
        host.store.tick(host.clock.now())
        host.clock.turn(120.0)
    assert visible(host) == rows


LIMITED = ("limits: {points_per_s: 10}", "limits: {user_points_per_s: 10}")


@pytest.mark.parametrize(("text", "behind"), [("{}", False), *((text, True) for text in LIMITED)])
def test_the_edge_reads_as_many_points_as_written(build, tmp_path, text, behind):
    """One turn takes 256 KiB; over the limit the rest stays in the job's own spool for minutes."""
    host = build(text, clock=SystemClock())
    spool = Spool.create(str(tmp_path / "spool"), "r", "01ARYZ6S410000000000000000", str(host.folder))
    host.edge.open()
    bell = Doorbell.connect(str(host.folder), spool, {})
    try:
        for step in range(12_000):
            spool.log(step, {"a": 1.0, "b": 2.0}, 1.7e9)
        until = time.monotonic() + (2.5 if behind else 60.0)
        while spool.unread and time.monotonic() < until:
            time.sleep(0.02)
        assert (spool.unread > 0) is behind
    finally:
        bell.close()
        spool.close()
        host.edge.edge.stop(0.0)


def test_policies_that_a_job_states_wrongly_are_told_to_the_job_that_comes(build):
    host, peer = build("{}"), Peer(1, os.getuid(), os.getgid())
    told = host.welcome(peer, {"policies": {"patiense": {}}})["warnings"]
    assert told == ["the daemon does not use the policies of policies=: no policy is called 'patiense' (did you mean patience?)"]
    (option,) = host.welcome(peer, {"policies": {"patience": {"patience": "six"}}})["warnings"]
    assert "'six' is not a whole number" in option
    assert "warnings" not in host.welcome(peer, {"policies": {"patience": {"patience": 6}}})
    assert "warnings" not in host.welcome(peer, {})


def test_a_job_that_comes_is_told_that_its_run_is_paused_or_held(build):
    host, peer = build("{}"), Peer(1, os.getuid(), os.getgid())
    now = host.clock.now()
    host.judge.switches.add(0, Switch("pause", ALL, "ann", now, float("inf"), "a fire drill", "q1"))
    host.judge.switches.add(0, Switch("hold", "mine", "bob", now, now + 60.0, "", "q2"))
    pause, hold = host.welcome(peer, {"run": "mine"})["warnings"]
    assert pause == "paused: ann paused all runs at 2023-11-14T22:13:20Z (a fire drill)"
    assert hold == "held: bob held this run at 2023-11-14T22:13:20Z until 2023-11-14T22:14:20Z"
    assert host.welcome(peer, {"run": "other"})["warnings"] == [pause]
