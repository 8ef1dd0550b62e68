"""The broker that the Kafka tests stand on: what is acknowledged is there after a kill -9, and the proxy does what it says."""

import contextlib
import socket
import threading
import time

import kafka
import kafka_broker as brokers
import pytest
from kafka_proxy import Proxy


def topic_of(bootstrap, name):
    admin = kafka.KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    return name


def producer(bootstrap):
    return kafka.KafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=False, acks="all", reconnect_backoff_max_ms=500)


def values(bootstrap, topic):
    consumer = kafka.KafkaConsumer(bootstrap_servers=bootstrap)
    partition = kafka.TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    found = []
    end = consumer.end_offsets([partition])[partition]
    while len(found) < end:
        found += [record.value for records in consumer.poll(500).values() for record in records]
    consumer.close()
    return found


def test_the_shared_broker_takes_what_is_sent(kafka_broker, kafka_prefix):
    topic = topic_of(kafka_broker.bootstrap, kafka_prefix)
    sender = producer(kafka_broker.bootstrap)
    sender.send(topic, b"1").get(30)
    sender.close(5)
    assert values(kafka_broker.bootstrap, topic) == [b"1"]


def listens(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def test_who_comes_when_the_last_user_has_gone_gets_a_broker_that_runs(kafka_broker, tmp_path):
    for _ in range(2):
        try:
            address, users = brokers.shared(tmp_path)
        except brokers.NoBroker as why:  # the session's is elsewhere
            brokers.cannot(why)
        with users:
            assert listens(address)
        deadline = time.monotonic() + 60
        while listens(address):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_broker_that_is_killed_comes_back_with_its_data_on_the_same_port(make_broker):
    broker = make_broker()
    address = broker.bootstrap
    topic = topic_of(address, "kept")
    sender = producer(address)
    sender.send(topic, b"1").get(30)
    broker.kill()
    broker.start()
    sender.send(topic, b"2").get(60)
    sender.close(5)
    assert (broker.bootstrap, values(address, topic)) == (address, [b"1", b"2"])


@pytest.fixture
def echo():
    """host:port of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(one):
        with one, contextlib.suppress(OSError):  # the proxy resets it
            while data := one.recv(1000):
                one.sendall(data)

    def accept():
        try:
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
        except OSError:
            return

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_the_proxy_cuts_holds_slows_and_heals(echo):
    proxy = Proxy(echo)
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
    client.sendall(b"a")
    assert client.recv(10) == b"a"
    proxy.delay(0.2)
    began = time.monotonic()
    client.sendall(b"b")
    assert client.recv(10) == b"b"
    assert time.monotonic() - began >= 0.4
    proxy.black_hole()
    client.sendall(b"c")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(10)
    proxy.heal()
    client.settimeout(30)
    assert client.recv(10) == b"c"
    proxy.cut()
    with pytest.raises(OSError):
        client.sendall(b"d") or client.recv(10) or (_ for _ in ()).throw(OSError("ended"))
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    proxy.heal()
    socket.create_connection(("127.0.0.1", proxy.port), timeout=5).close()
    client.close()
    proxy.close()
