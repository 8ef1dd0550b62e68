"""Daemons of two hosts fill one store, a folder or a bucket; a third host, with neither daemon nor data, replays what is there."""

import json
import os

import pytest
from kafka_host import Host, until
from weed_server import weed

STEPS = 300


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with weed(tmp_path_factory.mktemp("weed")) as client:
        yield client


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "shared")
    request.getfixturevalue("bucket")
    return "s3://tests/elsewhere"


def test_what_two_daemons_stored_is_replayed_by_a_third_host(kafka_broker, kafka_prefix, tmp_path, store):
    more = {"SMART_TUNER__STORE__URL": store} | {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    hosts = [Host(tmp_path / name, kafka_broker.bootstrap, kafka_prefix, **more) for name in ("one", "two", "desk")]
    one, two, desk = hosts
    try:
        for host in (one, two):
            host.daemon()
        until(lambda: all(len(host.ask()["bus"]["judged_here"]) == 1 for host in (one, two)), lambda: one.said("daemon"))
        names = [f"run-{n}" for n in range(4)]
        jobs = [(one, two)[n % 2].job(name, STEPS) for n, name in enumerate(names)]
        assert [job.process.wait(90) for job in jobs] == [0] * 4
        command = ["replay", "--series", "x", "--goal", "min", "--policy", "patience(patience=5)", "--runs", "--json"]

        def replayed():
            said = desk.cli(*command)
            rows = [json.loads(line) for line in said.stdout.splitlines()]
            found = {row["run"]: row["steps"] for row in rows}
            return rows if found == dict.fromkeys(names, STEPS - 1) else None

        rows = until(replayed, lambda: str(desk.cli(*command)))
        assert [row["stopped_at"] for row in rows] == [5] * 4  # x rises from its first point on
        assert not desk.data.exists()
    finally:
        for host in hosts:
            host.shut()
