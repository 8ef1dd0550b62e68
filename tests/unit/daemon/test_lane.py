"""One lane over a real log and a real state.db: whatever fails, nothing is lost, nothing counts twice, the rest goes on."""

import threading

import msgspec
import pandas as pd
import pytest
from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.retention import Limits, Retention
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import Unavailable
from smarttuner.core.events import Ack, MetricChunk, Notice, RunEvent, Series, decode_as, encode
from smarttuner.core.letters import letter_in
from smarttuner.core.ports import CONTROL, DEAD_LETTERS, METRICS, NOTICES, RUNS, Batch, Message
from smarttuner.daemon.lane import Lane
from smarttuner.daemon.state import State
from smarttuner.daemon.stores import FilesStore, JudgeStore, PlainStore


class Tally:
    """Counts bodies and answers each with a line; keeps its state as the judge does. `poison` cannot be folded; a body
    in `away` is Unavailable once; the one in `last` sets an event."""

    name = "tally"
    topics = (METRICS,)

    def __init__(self, poison=b"", away=(), answers=True):
        self.seen, self.poison, self.away, self.answers = {}, poison, set(away), answers
        self.stopping, self.last = threading.Event(), b""

    def handle(self, records, now):
        out = []
        for one in records:
            self.seen[one.body] = self.seen.get(one.body, 0) + 1  # before it fails: half folded
            if one.body == self.poison:
                raise ValueError("cannot be folded")
            if one.body in self.away:
                self.away.discard(one.body)
                raise Unavailable("away", "wait")
            if one.body == self.last:
                self.stopping.set()
            if self.answers:
                out.append(Message(NOTICES, "k", b"saw " + one.body))
        return out

    changed = ("all",)

    def changes(self):
        return {"all": msgspec.msgpack.encode(self.seen)}, b""

    def saved(self):
        pass

    def load(self, attempts, body):
        self.seen = msgspec.msgpack.decode(attempts["all"], type=dict[bytes, int]) if attempts else {}


class Unplugged:
    """A handle whose publish fails as often as it is told to: before anything is published, or behind the first message."""

    def __init__(self, bus, faults):
        self._bus, self._faults = bus, faults

    def __getattr__(self, name):
        return getattr(self._bus, name)

    def publish(self, messages):
        if self._faults:
            self._bus.publish(messages[: self._faults.pop()])
            raise Unavailable("the log is away", "wait")
        self._bus.publish(messages)


class House:
    """A log, a state.db and a lane; `restart` is a kill: what is not in the files is gone."""

    def __init__(self, folder, consumer=None, log=None):
        self.clock = ManualClock()
        self.log = log or MemoryLog(self.clock)
        self.folder, self.faults = folder, []
        self.bus = self.log.connect()
        self.start(consumer or Tally())

    def start(self, consumer):
        self.consumer = consumer
        self.state = State(str(self.folder / "state.db"), self.clock)
        self.store = JudgeStore(consumer, self.state, self.clock)
        self.lane = Lane(consumer, lambda: Unplugged(self.log.connect(), self.faults), self.store, self.clock)

    def restart(self, consumer=None):
        self.lane._drop()
        self.state.close()
        self.start(consumer or Tally())

    def publish(self, *bodies):
        self.bus.publish([Message(METRICS, "k", body) for body in bodies])

    def turn(self):
        try:
            return self.lane.step(self.clock.now())
        except Exception as error:
            self.lane.failed(error)
            return True

    def settle(self):
        for _ in range(200):
            if not self.turn():
                return
        raise AssertionError(self.lane.last_error)

    def on(self, topic):
        records = self.log.connect().follow(topic, "k", 0)[0]
        return [one.body for one in records]


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def once(*bodies):
    return dict.fromkeys(bodies, 1)


def test_what_was_not_published_before_a_kill_is_published_on_the_next_start(house):
    house.faults = [0]
    house.publish(b"a", b"b")
    with pytest.raises(Unavailable):
        house.lane.step(house.clock.now())
    assert house.on(NOTICES) == []
    house.restart()
    house.settle()
    assert house.on(NOTICES) == [b"saw a", b"saw b"]
    assert house.consumer.seen == once(b"a", b"b")
    assert house.state.unsent() == []


def test_an_answer_is_published_once_where_nothing_fails_and_again_where_half_was_out(house):
    house.faults = [1]
    house.publish(b"a", b"b")
    house.settle()
    assert house.on(NOTICES) == [b"saw a", b"saw a", b"saw b"]
    house.publish(b"c")
    house.settle()
    assert house.on(NOTICES)[3:] == [b"saw c"]


def test_an_exception_in_the_middle_of_a_batch_loses_nothing_and_counts_nothing_twice(tmp_path):
    house = House(tmp_path, Tally(away=[b"b"], answers=False))
    house.publish(b"a", b"b", b"c")
    house.settle()
    assert house.consumer.seen == once(b"a", b"b", b"c")
    assert (house.lane.errors, house.lane.last_error[:11]) == (1, "Unavailable")


def test_what_was_folded_and_not_yet_saved_is_folded_again_after_a_kill(tmp_path):
    house = House(tmp_path, Tally(answers=False))
    for body in (b"a", b"b", b"c"):
        house.publish(body)
        house.settle()
    assert house.state.positions() == {(METRICS, 0): 1}  # b and c are not due yet
    house.restart(Tally(answers=False))
    house.settle()
    assert house.consumer.seen == once(b"a", b"b", b"c")


def test_a_poisonous_record_is_set_aside_with_its_reason_and_the_rest_goes_on(tmp_path):
    house = House(tmp_path, Tally(poison=b"p"))
    house.publish(b"a", b"p", b"b", b"c")
    house.settle()
    assert house.consumer.seen == once(b"a", b"b", b"c")
    (record,) = house.log.connect().follow(DEAD_LETTERS, "k", 0)[0]
    kept = letter_in(record)
    assert (kept.body, kept.reason, kept.origin, kept.by) == (b"p", "ValueError: cannot be folded", "metrics/0@1", "tally")
    told, *saw = sorted(house.on(NOTICES), key=lambda body: body.startswith(b"saw"))
    assert "metrics/0@1: tally cannot take it" in decode_as(told, Notice).text
    assert saw == [b"saw a", b"saw b", b"saw c"]
    assert house.lane.set_aside == 1
    assert not house.lane.failing


def test_several_poisonous_records_are_each_set_aside_once(tmp_path):
    house = House(tmp_path, Tally(poison=b"p", answers=False))
    house.publish(b"p", b"a", b"p", b"p", b"b", b"p")
    house.settle()
    assert house.consumer.seen == once(b"a", b"b")
    assert house.on(DEAD_LETTERS) == [b"p"] * 4


def test_a_poisonous_record_stays_set_aside_after_a_kill(tmp_path):
    house = House(tmp_path, Tally(poison=b"p"))
    house.publish(b"a", b"p", b"b")
    house.settle()
    house.restart(Tally(poison=b"p"))
    house.settle()
    assert house.on(DEAD_LETTERS) == [b"p"]
    assert house.lane.errors == 0


def test_a_poisonous_record_is_set_aside_although_the_log_is_away_at_that_moment(tmp_path):
    house = House(tmp_path, Tally(poison=b"p", answers=False))
    house.publish(b"p", b"a")
    house.faults = [0, 0]
    house.settle()
    assert house.on(DEAD_LETTERS) == [b"p"]
    assert house.consumer.seen == once(b"a")


def test_what_is_away_is_waited_for_and_never_set_aside(tmp_path):
    house = House(tmp_path)
    house.faults = [0] * 20
    house.publish(b"a", b"b")
    house.settle()
    assert house.on(DEAD_LETTERS) == []
    assert house.lane.errors == 20
    assert house.on(NOTICES) == [b"saw a", b"saw b"]


def test_a_full_disk_is_waited_for_and_loses_nothing(house):
    house.publish(b"a")
    house.settle()
    pages = house.state._db.execute("PRAGMA page_count").fetchone()[0]
    house.state._db.execute(f"PRAGMA max_page_count={pages}")
    bodies = [b"%d" % i * 2000 for i in range(10)]
    house.publish(*bodies)
    for _ in range(5):
        with pytest.raises(Unavailable, match="full") as caught:
            house.lane.step(house.clock.now())
        house.lane.failed(caught.value)
    assert "free space" in caught.value.hint
    house.state._db.execute("PRAGMA max_page_count=100000")
    house.settle()
    assert house.consumer.seen == once(b"a", *bodies)
    assert house.on(NOTICES) == [b"saw a", *(b"saw " + body for body in bodies)]
    assert house.on(DEAD_LETTERS) == []


def test_records_that_retention_took_unread_are_one_alert_with_their_number(tmp_path):
    clock = ManualClock()
    small = Limits(max_bytes=4000, max_age_s=1e6, hard_bytes=4000)
    house = House(tmp_path, Tally(answers=False), MemoryLog(clock, limits=Retention(metrics=small)))
    house.publish(b"a")
    house.settle()
    house.publish(*(b"%04d" % i for i in range(50)))
    house.settle()
    records = house.log.connect().follow(NOTICES, "tally", 0)[0]
    (notice,) = [decode_as(one.body, Notice) for one in records]
    assert (notice.what, notice.level) == ("fell_off", "alert")
    assert notice.count == house.lane.fell_off == 51 - len(house.consumer.seen) > 0
    assert "raise bus.retention" in notice.text


def test_a_lane_that_is_stopped_takes_what_is_there_and_makes_it_durable(tmp_path):
    consumer = Tally(answers=False)
    house = House(tmp_path, consumer)
    consumer.last = b"b"
    house.publish(b"a", b"b")
    thread = threading.Thread(target=house.lane.run, args=(consumer.stopping,))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    house.state.close()
    assert State(str(tmp_path / "state.db"), house.clock).positions() == {(METRICS, 0): 2}


def test_a_running_lane_outlives_whatever_its_consumer_raises(tmp_path):
    consumer = Tally(poison=b"p", away=[b"a"], answers=False)
    house = House(tmp_path, consumer)
    consumer.last = b"z"
    house.publish(b"a", b"p", b"z")
    house.faults = [0]
    thread = threading.Thread(target=house.lane.run, args=(consumer.stopping, 0.01))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert house.consumer.seen == once(b"a", b"z")
    assert house.on(DEAD_LETTERS) == [b"p"]


class Allergic(MetricsStore):
    """The real store, but for one record that it cannot bear halfway through."""

    def __init__(self, *arguments, poison):
        super().__init__(*arguments)
        self.poison = poison

    def _fold(self, record):
        super()._fold(record)
        if record.body == self.poison:
            raise ValueError("cannot be folded")


@pytest.mark.parametrize("topic", [METRICS, RUNS, CONTROL])
def test_a_poisonous_record_does_not_hold_the_store_for_ever(tmp_path, topic, monkeypatch):
    house = House(tmp_path)
    poison = encode(Ack("x", "r", "A", "applied", 1.0))
    store = Allergic(str(tmp_path), house.clock, poison=poison)
    if topic == METRICS:
        monkeypatch.setattr(type(store._metrics), "take", lambda self, record, take=type(store._metrics).take: take(self, record)
                            if record.body != poison else 1 / 0)  # fmt: skip
    house.lane = Lane(store, house.log.connect, FilesStore(store), house.clock)
    chunks = [encode(MetricChunk("r", "A", "sdk", i, [Series("loss", [i], [0.5], [1e9 + i])])) for i in range(3)]
    event = encode(RunEvent("r", "A", "note", 1e9, seq=0))
    house.bus.publish([Message(METRICS, "k", chunks[0]), Message(topic, "k", poison), Message(RUNS, "k", event)])
    house.bus.publish([Message(METRICS, "k", body) for body in chunks[1:]])
    house.settle()
    house.lane.drain()
    assert house.on(DEAD_LETTERS) == [poison]
    assert sorted(pd.read_parquet(tmp_path / "metrics").step) == [0, 1, 2]
    assert list(pd.read_parquet(tmp_path / "runs").attempt) == ["A"]
    again = MetricsStore(str(tmp_path), house.clock)
    assert [again.position((name, 0)) for name in (METRICS, RUNS)] == [3 + (topic == METRICS), 1 + (topic == RUNS)]


def test_a_consumer_that_remembers_nothing_goes_on_where_its_group_was(tmp_path):
    house = House(tmp_path)
    house.lane = Lane(Tally(poison=b"p"), house.log.connect, PlainStore(), house.clock)
    house.publish(b"a", b"p", b"b")
    house.settle()
    house.lane._drop()
    house.publish(b"c")
    house.consumer = Tally()
    house.lane = Lane(house.consumer, house.log.connect, PlainStore(), house.clock)
    house.settle()
    assert house.consumer.seen == once(b"c")
    assert (house.on(NOTICES)[-1], house.on(DEAD_LETTERS)) == (b"saw c", [b"p"])


def test_time_does_not_pass_for_a_consumer_while_there_may_be_more_to_read():
    class Ticks:
        name, topics, ticks = "ticks", (METRICS,), 0

        def handle(self, records, now):
            self.ticks += 1
            return []

    class Joining:
        """A handle whose first empty polls are not the end of the log."""

        polls = 0

        def poll(self, *_):
            self.polls += 1
            return Batch(behind=self.polls <= 3)

    consumer, handle, clock = Ticks(), Joining(), ManualClock(1_700_000_000.0)
    lane = Lane(consumer, lambda: handle, PlainStore(), clock)
    for expected in (0, 0, 0, 1, 2):
        lane.step(clock.now())
        assert consumer.ticks == expected
