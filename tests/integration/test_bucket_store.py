"""The store in a bucket of a real server (SeaweedFS): the conditions it rests on, late holders, and readers."""

import os
import threading

import pandas as pd
import pytest
import smarttuner
from smarttuner.consumers import reading, store_url
from smarttuner.consumers.bucket import Bucket
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.reading import decision_rows, run_rows
from smarttuner.consumers.retention import Retention
from smarttuner.consumers.store_url import open_place
from smarttuner.consumers.tenure import Fenced
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import ConfigError, Unavailable
from smarttuner.core.events import Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record
from weed_server import weed

pytest.importorskip("boto3")
NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A SeaweedFS for this file."""
    with weed(tmp_path_factory.mktemp("weed")) as client:
        yield client


@pytest.fixture
def url(server, request):
    return f"s3://tests/{request.node.originalname}/{abs(hash(request.node.name))}"


@pytest.fixture
def opened(url, tmp_path):
    count = iter(range(1000))

    def make(shared=True, **options):
        clock = ManualClock(NOW)
        place = open_place(url, str(tmp_path / f"daemon{next(count)}"), clock, shared, "a log")
        return MetricsStore("nowhere", clock, place=place, **options)

    return make


def record(n):
    if n % 15 == 0:
        return Record(RUNS, 0, n, "r", encode(RunEvent("r", f"a{n}", "started", NOW, 0, started=Started(host="h"))), NOW + n)
    if n % 15 == 5:
        return Record(CONTROL, 0, n, "r", encode(Decision(f"d{n}", "r", "a0", "prune", "p", "sdk:1", "why", NOW, NOW)), NOW + n)
    steps = list(range(n * 10, n * 10 + 10))
    body = MetricChunk("r", "a0", "sdk", n * 10, [Series("x", steps, [1.0] * 10, [NOW] * 10)])
    return Record(METRICS, 0, n, "r", encode(body), NOW + n)


def feed(store, last):
    at = {topic: store.position((topic, 0)) for topic in (METRICS, RUNS, CONTROL)}
    store.handle([one for one in map(record, range(last)) if one.offset >= at[one.topic]], NOW)
    return store


def expected(last):
    return sorted(p for n in range(last) if n % 15 not in (0, 5) for p in range(n * 10, n * 10 + 10))


def whole(url, last):
    """What Arrow's own client reads of the bucket, bare: every row once."""
    assert sorted(pd.read_parquet(f"{url}/metrics/").seq) == expected(last)
    assert sorted(pd.read_parquet(f"{url}/runs/").attempt) == sorted(f"a{n}" for n in range(0, last, 15))
    assert sorted(pd.read_parquet(f"{url}/decisions/").id) == sorted(f"d{n}" for n in range(5, last, 15))


def test_of_several_conditional_puts_at_once_the_server_takes_one(server):
    """What the fence rests on: other servers than AWS are worth asking."""
    for condition in ("IfNoneMatch", "IfMatch"):
        for i in range(5):
            key, taken, refused, gate = f"race/{condition}{i}", [], [], threading.Barrier(4)
            wanted = {"IfNoneMatch": "*"}
            if condition == "IfMatch":
                wanted = {"IfMatch": server.put_object(Bucket="tests", Key=key, Body=b"0")["ETag"]}

            def put(n, key=key, wanted=wanted, taken=taken, refused=refused, gate=gate):
                gate.wait()
                try:
                    server.put_object(Bucket="tests", Key=key, Body=b"%d" % n * 1000, **wanted)
                    taken.append(n)
                except server.exceptions.ClientError:
                    refused.append(n)

            threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
            assert (len(taken), len(refused)) == (1, 3)
            assert server.get_object(Bucket="tests", Key=key)["Body"].read() == b"%d" % taken[0] * 1000


@pytest.mark.parametrize("seal_rows", [1_000_000, 150])
def test_a_partition_goes_from_store_to_store_and_whoever_is_late_is_fenced(url, opened, seal_rows):
    late, other = opened(seal_rows=seal_rows), opened(seal_rows=seal_rows)
    feed(late, 20).flush(NOW)
    whole(url, 20)
    feed(late, 60)
    feed(other, 40).flush(NOW)
    whole(url, 40)
    with pytest.raises(Fenced):
        late.flush(NOW)
    whole(url, 40)
    late.reload()
    feed(late, 70).flush(NOW)
    whole(url, 70)
    other.revoke([(METRICS, 0), (RUNS, 0), (CONTROL, 0)])  # whatever it has in memory is refused, and not told: it is gone
    feed(other, 80).flush(NOW)
    whole(url, 80)
    assert (late.counters["fenced"], other.counters["partitions_taken"]) == (1, 2)


def test_a_store_of_one_daemon_is_opened_again_goes_on_and_is_read_everywhere(url, opened):
    first = feed(opened(shared=False, seal_rows=200), 50)
    first.tick(NOW)
    whole(url, 50)
    feed(first, 90)
    first.tick(NOW + 5)
    whole(url, 50)  # not oftener than every 10 s
    first.tick(NOW + 10)
    whole(url, 90)
    again = opened(shared=False, seal_rows=200)
    assert again.position((METRICS, 0)) == 90
    feed(again, 120).flush(NOW)
    whole(url, 120)
    assert sorted(smarttuner.read_metrics("r", data_dir=url, attempts="all").seq) == expected(120)
    assert [row["attempt"] for row in run_rows(url)] == sorted(f"a{n}" for n in range(0, 120, 15))
    assert len(decision_rows(url)) == 8
    options = {"client_kwargs": {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}, "use_listings_cache": False}
    assert sorted(pd.read_parquet(f"{url}/metrics/", storage_options=options).seq) == expected(120)


def test_what_was_only_concluded_is_looked_back_on_in_a_bucket(url, opened):
    store = opened(shared=False)
    points = Series("x", [1, 2, 3], [3.0, 1.0, 2.0], [NOW, NOW + 1, NOW + 2])
    evidence = {"series": "x", "goal": "min", "step": 1, "value": 3.0}
    decision = Decision("d", "r", "a", "prune", "p", "sdk:0", "why", NOW, NOW, step=1, evidence=evidence, status="would")
    events = [
        (RUNS, RunEvent("r", "a", "started", NOW, 0, started=Started(monitor="x", goal="min"))),
        (METRICS, MetricChunk("r", "a", "sdk", 0, [points])),
        (CONTROL, decision),
        (RUNS, RunEvent("r", "a", "ended", NOW + 5, 9, state="finished")),
    ]
    store.handle([Record(topic, 0, i, "r", encode(event), NOW) for i, (topic, event) in enumerate(events)], NOW)
    store.flush(NOW)
    (seen,) = smarttuner.read_decisions(data_dir=url)["hindsight"]
    assert (seen["best_before"], seen["best_after"], seen["steps_saved"], seen["seconds_saved"]) == (3.0, 1.0, 2, 5.0)
    assert seen["lost"] == 2.0


def test_a_damaged_object_is_set_aside_and_filled_again(server, url, opened):
    feed(opened(seal_rows=150), 60).flush(NOW)
    keys = [one["Key"] for one in server.list_objects_v2(Bucket="tests", Prefix=url[11:] + "/metrics/")["Contents"]]
    server.put_object(Bucket="tests", Key=keys[0], Body=b"PAR1 no more")
    store = opened(seal_rows=150)
    assert store.position((METRICS, 0)) == 0
    assert store.counters["damaged_files"] == 1
    feed(store, 60).flush(NOW)
    whole(url, 60)
    assert (
        server.get_object(Bucket="tests", Key=keys[0].replace("/metrics/", "/metrics/.damaged-"))["Body"].read() == b"PAR1 no more"
    )


def test_metrics_expire_in_a_bucket_too(url, opened):
    store = feed(opened(seal_rows=150, retention=Retention(age_s=1000.0)), 20)
    for n in range(20, 80, 20):
        feed(store, n).flush(NOW)
    store.tick(NOW + 1_000_000)
    assert store.counters["expired_files"] >= 2
    feed(store, 100).flush(NOW)
    assert sorted(pd.read_parquet(f"{url}/metrics/").seq) == [p for p in expected(100) if p not in expected(60)]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "AWS_ENDPOINT_URL"), ("AWS_SECRET_ACCESS_KEY", "wrong", "credentials")],
)
def test_a_server_that_is_away_or_refuses_is_said_with_what_to_look_at(
    server, url, opened, tmp_path, monkeypatch, name, value, said
):
    monkeypatch.setenv(name, value)
    bucket = Bucket(url, str(tmp_path / "cache"), ManualClock(NOW))
    with pytest.raises(Unavailable, match=said):
        bucket.take(0)
    with pytest.raises(Unavailable, match=said):
        run_rows(url)


def test_a_publish_that_fails_loses_nothing_and_is_made_good(url, opened, monkeypatch):
    store = feed(opened(), 20)
    store.flush(NOW)
    feed(store, 50)
    put = store._place.client.put_object
    from botocore.exceptions import EndpointConnectionError

    def away(**arguments):
        raise EndpointConnectionError(endpoint_url="http://away")

    monkeypatch.setattr(store._place.client, "put_object", away)
    with pytest.raises(Unavailable):
        store.flush(NOW)
    whole(url, 20)
    monkeypatch.setattr(store._place.client, "put_object", put)
    store.flush(NOW)
    whole(url, 50)


def test_a_reader_of_ours_is_not_disturbed_by_an_object_that_is_replaced_while_it_is_read(url, opened, monkeypatch):
    store = feed(opened(), 20)
    store.flush(NOW)
    last, whole_read = iter(range(60, 100, 20)), store_url.pq.ParquetFile

    def replaced(source, **options):
        """The footer was read of one version, the rows are of the next."""
        file = whole_read(source, **options)
        if (n := next(last, None)) is not None:
            feed(store, n).flush(NOW)
        return file

    monkeypatch.setattr(store_url.pq, "ParquetFile", replaced)
    found = reading.metric_table(url, attempts="all")
    monkeypatch.undo()
    assert sorted(found["seq"].to_pylist()) == expected(80)


def test_a_bucket_is_filled_from_one_log(url, tmp_path):
    clock = ManualClock(NOW)
    open_place(url, str(tmp_path / "a"), clock, shared=True, log="kafka one")
    open_place(url, str(tmp_path / "b"), clock, shared=True, log="kafka one")
    with pytest.raises(ConfigError, match="kafka one"):
        open_place(url, str(tmp_path / "b"), clock, shared=True, log="kafka two")
