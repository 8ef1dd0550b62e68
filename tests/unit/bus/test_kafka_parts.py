"""What the bus on Kafka decides without a broker: who reads what, in which order, and what flies together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smarttuner.bus.kafka_assignor import Standing, first_round, share
from smarttuner.bus.kafka_merge import Merge
from smarttuner.bus.kafka_publisher import Letter, flights
from smarttuner.bus.kafka_settings import KafkaSettings, faults, needs
from smarttuner.core.errors import ConfigError
from smarttuner.core.ports import CONTROL, METRICS, NOTICES, RUNS, STATE, Record

TOPICS = (METRICS, RUNS, CONTROL)


def settle(members, partitions):
    """Rounds of joining until nobody has to give anything up any more; what each holds, and how many rounds it took."""
    for rounds in range(1, 10):
        wanted = share(partitions, members)
        given_out = first_round(wanted, members)
        held = [place for places in given_out.values() for place in places]
        assert len(held) == len(set(held))  # never two readers of one partition
        members = {name: standing._replace(owned=frozenset(given_out[name])) for name, standing in members.items()}
        if given_out == wanted:
            return members, rounds
    raise AssertionError("no end of rounds")


@given(st.integers(1, 24), st.lists(st.booleans(), min_size=1, max_size=12))
def test_members_come_and_go_and_numbers_stay_together(count, comings):
    partitions = {topic: range(count) for topic in TOPICS}
    members, born = {}, 0
    for comes in comings:
        before = members
        if comes or not members:
            members = {**members, f"m{born}": Standing(frozenset(TOPICS), frozenset())}
            born += 1
        else:
            members = dict(list(members.items())[1:])
        if not members:
            continue
        members, rounds = settle(members, partitions)
        assert rounds <= 2
        numbers = {name: {n for _, n in standing.owned} for name, standing in members.items()}
        for name, standing in members.items():
            assert standing.owned == {(topic, n) for topic in TOPICS for n in numbers[name]}
        sizes = sorted(map(len, numbers.values()))
        assert sum(sizes) == count
        assert sizes[-1] - sizes[0] <= 1
        moved = sum(bool(before[name].owned - standing.owned) for name, standing in members.items() if name in before)
        assert moved == 0 or comes  # nobody gives anything up when another leaves


def test_a_member_that_reads_one_topic_only_gets_all_of_it():
    partitions = {METRICS: range(4), NOTICES: range(2)}
    members = {"a": Standing(frozenset([METRICS, NOTICES]), frozenset()), "b": Standing(frozenset([METRICS]), frozenset())}
    settled, _ = settle(members, partitions)
    assert {n for topic, n in settled["a"].owned if topic == NOTICES} == {0, 1}
    assert len([1 for topic, _ in settled["b"].owned if topic == METRICS]) == 2


def test_what_two_members_claim_is_given_to_neither_until_one_lets_go():
    both = frozenset([(METRICS, 0)])
    members = {"a": Standing(frozenset([METRICS]), both), "b": Standing(frozenset([METRICS]), both)}
    assert first_round({"a": {(METRICS, 0)}, "b": set()}, members) == {"a": set(), "b": set()}


def record(topic, offset, time, number=0):
    return Record(topic, number, offset, "k", b"", time)


def release(merge, late=(), now=0.0):
    """Each partition ends at 1, and those that are late have not been read so far."""
    merge.release(lambda mates: dict.fromkeys(mates, 1), lambda partition, end: partition not in late, now)


def merged(*partitions):
    merge = Merge()
    for partition in partitions:
        merge.open(partition)
    return merge


def test_the_end_of_a_run_waits_for_its_metrics():
    merge = merged((METRICS, 0), (RUNS, 0))
    ended = record(RUNS, 5, 100.0)
    merge.add((RUNS, 0), [ended])
    release(merge, {(METRICS, 0)})  # metrics has more
    assert merge.take(10) == []
    early, late = record(METRICS, 1, 90.0), record(METRICS, 2, 110.0)
    merge.add((METRICS, 0), [early])
    release(merge, {(METRICS, 0)})
    assert merge.take(10) == [early]
    merge.add((METRICS, 0), [late])
    release(merge)
    assert merge.take(10) == [ended, late]


def test_numbers_do_not_wait_for_each_other():
    merge = merged((METRICS, 0), (RUNS, 0), (METRICS, 1), (RUNS, 1))
    merge.add((RUNS, 0), [record(RUNS, 0, 1.0)])
    merge.add((RUNS, 1), [record(RUNS, 0, 1.0, 1)])
    release(merge, {(METRICS, 0)})
    assert [one.partition for one in merge.take(10)] == [1]


def test_a_stream_that_never_pauses_holds_up_nothing_that_an_earlier_question_put_in_order():
    merge, read, ends = merged((METRICS, 0), (RUNS, 0)), {METRICS: 0, RUNS: 0}, {METRICS: 1, RUNS: 1}

    def turn():
        asked = []

        def answer(mates):
            asked.append(mates)
            return {(topic, number): ends[topic] for topic, number in mates}

        merge.release(answer, lambda partition, end: read[partition[0]] >= end, 0.0)
        return merge.take(10), len(asked)

    first = record(METRICS, 0, 100.0)
    merge.add((METRICS, 0), [first])
    read[METRICS] = 1
    assert turn() == ([], 1)  # runs has one that was not read
    before, second = record(RUNS, 0, 50.0), record(METRICS, 1, 200.0)
    merge.add((RUNS, 0), [before])
    merge.add((METRICS, 0), [second])
    read, ends = {METRICS: 2, RUNS: 1}, {METRICS: 2, RUNS: 2}  # and again one more on runs
    assert turn() == ([before, first], 1)
    merge.add((RUNS, 0), [third := record(RUNS, 1, 150.0)])
    read[RUNS], ends[RUNS] = 2, 2
    assert turn() == ([third, second], 0)  # the question that is open answers it


def test_a_question_whose_end_is_never_reached_is_put_anew():
    merge = merged((METRICS, 0), (RUNS, 0))
    merge.add((METRICS, 0), [one := record(METRICS, 0, 1.0)])
    release(merge, {(RUNS, 0)})
    merge.release(lambda mates: pytest.fail("asked"), lambda partition, end: partition[0] == METRICS, 0.5)
    assert merge.take(10) == []
    merge.release(lambda mates: dict.fromkeys(mates, 0), lambda partition, end: partition[0] == METRICS or end == 0, 1.5)
    assert merge.take(10) == [one]


def test_what_a_late_partition_brings_frees_what_is_older_at_once():
    merge = merged((METRICS, 0), (RUNS, 0))
    merge.add((RUNS, 0), [ended := record(RUNS, 0, 100.0)])
    release(merge, {(METRICS, 0)})
    merge.add((METRICS, 0), [early := record(METRICS, 0, 60.0)])
    release(merge, {(METRICS, 0)})
    assert merge.take(10) == [early]
    release(merge)
    assert merge.take(10) == [ended]


def test_a_time_that_goes_back_does_not_change_the_order_of_offsets():
    merge = merged((METRICS, 0), (RUNS, 0))
    several = [record(METRICS, 0, 10.0), record(METRICS, 1, 5.0), record(METRICS, 2, 11.0)]
    merge.add((METRICS, 0), several)
    release(merge)
    assert merge.take(2) + merge.take(2) == several


def test_what_is_taken_away_does_not_come_any_more():
    merge = merged((METRICS, 0), (METRICS, 1))
    merge.add((METRICS, 0), [record(METRICS, 0, 1.0)])
    merge.add((METRICS, 1), [record(METRICS, 0, 2.0, 1), record(METRICS, 1, 3.0, 1)])
    release(merge)
    merge.close((METRICS, 1))
    assert [one.partition for one in merge.take(10)] == [0]


def test_one_topic_alone_asks_nobody():
    merge = merged((METRICS, 0), (METRICS, 1))
    merge.add((METRICS, 0), [record(METRICS, 0, 1.0)])
    merge.release(lambda mates: pytest.fail("asked"), lambda partition, end: pytest.fail("asked"), 0.0)
    assert len(merge.take(10)) == 1


@given(st.lists(st.tuples(st.sampled_from(TOPICS), st.sampled_from("abc"), st.integers(0, 1)), max_size=30))
def test_flights_keep_each_partition_in_order_and_never_mix_a_keys_topics(items):
    letters = [Letter(topic, number, key, b"%d" % n) for n, (topic, key, number) in enumerate(items)]
    cut = list(flights(letters))
    flat = [one for flight in cut for one in flight]
    assert sorted(flat, key=lambda one: int(one.body)) == letters
    for number in (0, 1):
        for topic in TOPICS:
            of_one = [int(one.body) for one in flat if (one.topic, one.partition) == (topic, number)]
            assert of_one == sorted(of_one)
        for key in "abc":
            of_key = [int(one.body) for one in flat if (one.key, one.partition) == (key, number)]
            assert of_key == sorted(of_key)
            for flight in cut:
                assert len({one.topic for one in flight if (one.key, one.partition) == (key, number)}) <= 1


def test_topics_that_are_wrong_are_named_with_what_to_do():
    need = needs(KafkaSettings("h:1", partitions=4))[METRICS]
    good = dict(need.configs)
    assert faults(need, 4, good) == []
    assert faults(need, 4, {}) == []  # nothing may be looked at
    for partitions, configs, word in (
        (5, good, "5 partitions"),
        (4, good | {"message.timestamp.type": "CreateTime"}, "CreateTime"),
        (4, good | {"cleanup.policy": "compact"}, "cleanup.policy=compact"),
        (4, good | {"max.message.bytes": "1000"}, "1000 bytes"),
    ):
        [(said, hint)] = faults(need, partitions, configs)
        assert word in said
        assert hint
    assert faults(needs(KafkaSettings("h:1", partitions=4))[NOTICES], 1, {}) == []
    assert faults(needs(KafkaSettings("h:1", partitions=4))[STATE], 1, {})
    with pytest.raises(ConfigError):
        KafkaSettings("h:1", partitions=0)


def test_checksums_are_not_made_in_python():
    """kafka-python would take a second for each megabyte."""
    from kafka.record import util

    assert util.calc_crc32c.__defaults__[0].__module__ != "kafka.record._crc32c"
