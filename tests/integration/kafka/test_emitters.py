"""The programs of docs/examples against a real broker: what they publish is what the schema says, where the daemon looks."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import jsonschema
import kafka_broker as brokers
import pytest
from smarttuner.bus.partitions import partition_of
from smarttuner.core.events import MetricChunk, RunEvent, decode

DOCS = pathlib.Path(__file__).parents[3] / "docs"
PARTITIONS = 4
STEPS = 120
PATIENCE_S = 60.0


def java(*arguments):
    classes = os.pathsep.join(brokers.jars())
    return [brokers.java(), "-XX:TieredStopAtLevel=1", "-cp", classes, str(DOCS / "examples" / "Emitter.java"), *arguments]


def librdkafka(*arguments):
    if importlib.util.find_spec("confluent_kafka") is None:
        pytest.skip("confluent-kafka is not installed: the librdkafka example is not run (pip install 'smart-tuner[dev]')")
    return [sys.executable, str(DOCS / "examples" / "emitter.py"), *arguments]


@pytest.fixture
def topics(kafka_broker, kafka_prefix):
    from kafka.admin import KafkaAdminClient, NewTopic

    names = [f"{kafka_prefix}.default.{topic}" for topic in ("metrics", "runs")]
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    yield names
    admin.close()


def read(bootstrap, topic, count):
    """(partition, key, body) of `count` records."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    try:
        everywhere = [TopicPartition(topic, n) for n in range(PARTITIONS)]
        consumer.assign(everywhere)
        consumer.seek_to_beginning(*everywhere)
        found, deadline = [], time.monotonic() + PATIENCE_S
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} came"
            for records in consumer.poll(timeout_ms=500).values():
                found += [(one.partition, one.key.decode(), one.value) for one in records]
        return found
    finally:
        consumer.close()


@pytest.mark.parametrize("program", [java, librdkafka])
def test_an_example_streams_a_run_that_the_daemon_can_read(kafka_broker, topics, program):
    run = "sweep/lr-0.1"
    metrics, runs = topics
    command = program(kafka_broker.bootstrap, metrics.removesuffix(".metrics"), run, str(STEPS))
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    records = read(kafka_broker.bootstrap, metrics, 3)
    ((ended_in, ended_key, ended_body),) = read(kafka_broker.bootstrap, runs, 1)
    schema = json.loads((DOCS / "schema.json").read_text())
    for partition, key, body in [*records, (ended_in, ended_key, ended_body)]:
        jsonschema.validate(json.loads(body), schema)
        assert (key, partition) == (run, partition_of(run, PARTITIONS))
    chunks = [decode(body) for _, _, body in records]
    assert all(isinstance(one, MetricChunk) and one.attempt == done.stdout.strip() for one in chunks)
    places = [
        (at, one.steps[i], one.values[i]) for c in chunks for one, positions in c.positions() for i, at in enumerate(positions)
    ]
    assert [(at, step) for at, step, _ in places] == [(step, step) for step in range(STEPS)]
    assert places[3][2] == "NaN"
    ended = decode(ended_body)
    assert isinstance(ended, RunEvent)
    assert (ended.event, ended.state, ended.seq, ended.attempt) == ("ended", "finished", STEPS, chunks[0].attempt)
