import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smarttuner.bus.partitions import key_of, murmur2, partition_of

with warnings.catch_warnings():  # kafka-python reads its schemas by a function that is going away
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.partitioner.default import murmur2 as kafkas


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_the_vectors_of_kafkas_own_tests(text, expected):
    assert murmur2(text.encode()) == expected & 0xFFFFFFFF


@given(st.binary(max_size=80))
def test_the_same_as_kafka_python(data):
    assert murmur2(data) == kafkas(data) & 0xFFFFFFFF


@given(st.text(max_size=40), st.integers(1, 64))
def test_a_key_has_a_partition_among_those_there_are(key, partitions):
    assert 0 <= partition_of(key, partitions) < partitions


def test_every_partition_has_a_key_of_its_own():
    for partitions in (1, 4, 12):
        assert [partition_of(key_of(n, partitions), partitions) for n in range(partitions)] == list(range(partitions))
