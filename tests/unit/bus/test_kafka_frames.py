"""What is packed by hand is byte for byte what kafka-python packs, and what is read by hand is what it reads."""

import pytest

kafka = pytest.importorskip("kafka", reason="kafka-python is not installed: pip install 'smart-tuner[kafka]'")

from kafka.protocol.consumer import FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse  # noqa: E402
from kafka.protocol.producer import ProduceRequest, ProduceResponse  # noqa: E402
from smarttuner.bus import kafka_frames as frames  # noqa: E402


def theirs(request):
    request.with_header(correlation_id=7, client_id="me")
    return request.encode(header=True, framed=True)


def ours(api, version, body):
    return frames.framed(api, version, 7, b"me", body)


def test_a_produce_request():
    topic = ProduceRequest.TopicProduceData
    place = topic.PartitionProduceData
    request = ProduceRequest(
        transactional_id=None,
        acks=-1,
        timeout_ms=5000,
        topic_data=[
            topic(name="a.metrics", partition_data=[place(index=0, records=b"xx"), place(index=3, records=b"yyy")]),
            topic(name="a.runs", partition_data=[place(index=0, records=b"z")]),
        ],
        version=frames.PRODUCE_VERSION,
    )
    batches = {("a.metrics", 0): b"xx", ("a.runs", 0): bytearray(b"z"), ("a.metrics", 3): b"yyy"}
    assert ours(frames.PRODUCE, frames.PRODUCE_VERSION, frames.produce(batches, 5000)) == theirs(request)


@pytest.mark.parametrize(("session", "gone"), [((0, 0), []), ((77, 3), [("a.runs", 1), ("a.runs", 2)])])
def test_a_fetch_request(session, gone):
    topic = FetchRequest.FetchTopic
    place = topic.FetchPartition
    version = frames.FETCH_VERSION
    offsets = {("a.metrics", 0): 5, ("a.metrics", 3): 1 << 40, ("a.control", 0): 0}

    def wanted(name):
        return topic(
            topic=name,
            partitions=[
                place(partition=n, current_leader_epoch=-1, fetch_offset=at, log_start_offset=-1, partition_max_bytes=1000)
                for (one, n), at in offsets.items()
                if one == name
            ],
        )

    request = FetchRequest(
        replica_id=-1,
        max_wait_ms=500,
        min_bytes=1,
        max_bytes=9000,
        isolation_level=0,
        session_id=session[0],
        session_epoch=session[1],
        topics=[wanted("a.metrics"), wanted("a.control")],
        forgotten_topics_data=[FetchRequest.ForgottenTopic(topic="a.runs", partitions=[1, 2])] if gone else [],
        version=version,
    )
    body = frames.fetch(frames.Patience(500, 9000, 1000), session, offsets, gone)
    assert ours(frames.FETCH, version, body) == theirs(request)


def test_a_question_for_ends():
    topic = ListOffsetsRequest.ListOffsetsTopic
    place = topic.ListOffsetsPartition
    request = ListOffsetsRequest(
        replica_id=-1,
        isolation_level=0,
        topics=[
            topic(name="a.metrics", partitions=[place(partition_index=n, timestamp=-1) for n in (0, 2)]),
            topic(name="a.runs", partitions=[place(partition_index=0, timestamp=-1)]),
        ],
        version=frames.LIST_OFFSETS_VERSION,
    )
    body = frames.list_offsets([("a.metrics", 0), ("a.runs", 0), ("a.metrics", 2)])
    assert ours(frames.LIST_OFFSETS, frames.LIST_OFFSETS_VERSION, body) == theirs(request)


def test_answers():
    topic = ProduceResponse.TopicProduceResponse
    one = topic.PartitionProduceResponse
    answer = ProduceResponse(
        responses=[
            topic(
                name="a",
                partition_responses=[one(index=1, error_code=6, base_offset=-1, log_append_time_ms=-1, log_start_offset=-1)],
            ),
            topic(
                name="b", partition_responses=[one(index=0, error_code=0, base_offset=9, log_append_time_ms=5, log_start_offset=0)]
            ),
        ],
        throttle_time_ms=1500,
        version=frames.PRODUCE_VERSION,
    )
    assert frames.produced(bytes(answer.encode())) == ({("a", 1): 6, ("b", 0): 0}, 1.5)

    topic = FetchResponse.FetchableTopicResponse
    one = topic.PartitionData
    aborted = [one.AbortedTransaction(producer_id=1, first_offset=2)]
    shared = {"last_stable_offset": 4, "log_start_offset": 0}
    answer = FetchResponse(
        throttle_time_ms=0,
        error_code=0,
        session_id=99,
        responses=[
            topic(
                topic="a",
                partitions=[
                    one(partition_index=1, error_code=0, high_watermark=7, aborted_transactions=aborted, records=b"abc", **shared)
                ],
            ),
            topic(
                topic="b",
                partitions=[
                    one(partition_index=0, error_code=1, high_watermark=-1, aborted_transactions=None, records=None, **shared)
                ],
            ),
        ],
        version=frames.FETCH_VERSION,
    )
    found = {("a", 1): frames.Fetched(0, 7, b"abc"), ("b", 0): frames.Fetched(1, -1, b"")}
    assert frames.fetched(bytes(answer.encode())) == (0, 99, found)

    topic = ListOffsetsResponse.ListOffsetsTopicResponse
    one = topic.ListOffsetsPartitionResponse
    places = [one(partition_index=n, error_code=n, timestamp=-1, offset=10 + n) for n in (0, 3)]
    answer = ListOffsetsResponse(
        throttle_time_ms=0, topics=[topic(name="a", partitions=places)], version=frames.LIST_OFFSETS_VERSION
    )
    assert frames.listed(bytes(answer.encode())) == {("a", 0): (0, 10), ("a", 3): (3, 13)}
