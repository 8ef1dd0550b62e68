"""What a partition's entries say to who takes it over."""

import msgspec
import pytest
from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.memory_state import MemoryStateLog
from smarttuner.consumers.judge import Judge
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import Unavailable
from smarttuner.core.events import Claim, MetricChunk, Request, Series, decode, encode
from smarttuner.core.ports import CONTROL, DEAD_LETTERS, METRICS, Message
from smarttuner.daemon import fleet
from smarttuner.daemon.fleet import FleetStore, Saved, restore
from smarttuner.daemon.gates import Gates
from smarttuner.daemon.lane import Lane


def saved(body, **folded):
    return msgspec.msgpack.encode(Saved(body, folded))


def test_what_stands_behind_a_higher_claim_does_not_count():
    found = restore([
        ("claim|1|a", b""), ("X@1", saved(b"good", metrics=5)), ("head|1", saved(b"", metrics=5)),
        ("claim|2|b", b""), ("X@1", saved(b"of who had lost it", metrics=9)), ("head|1", saved(b"", metrics=9)),
    ])  # fmt: skip
    assert (found.epoch, found.owner) == (2, "b")
    assert found.attempts["X"].body == b"good"
    assert found.head.folded == {"metrics": 5}
    assert set(found.outdated) == {"claim|1|a", "X@1", "head|1"}


def test_a_takeover_that_was_cut_short_loses_nothing():
    found = restore([
        ("claim|1|a", b""), ("X@1", saved(b"x1")), ("Y@1", saved(b"y1")), ("head|1", saved(b"", metrics=7)),
        ("claim|2|b", b""), ("X@2", saved(b"x2")), ("claim|3|c", b""),
    ])  # fmt: skip
    assert {name: one.body for name, one in found.attempts.items()} == {"X": b"x2", "Y": b"y1"}
    assert found.head.folded == {"metrics": 7}


def test_the_first_of_two_equal_claims_owns():
    found = restore([("claim|4|a", b""), ("claim|4|b", b"")])
    assert (found.epoch, found.owner) == (4, "a")


def test_an_attempt_may_be_called_like_a_kind_of_entry_and_unknown_keys_are_counted():
    found = restore([("claim|1|a", b""), ("head@1", saved(b"h")), ("claim@1", saved(b"c")), ("what", b""), ("X@1", b"\xc1")])
    assert {name: one.body for name, one in found.attempts.items()} == {"head": b"h", "claim": b"c"}
    assert found.unreadable == 2


def test_a_forgotten_attempt_stays_forgotten():
    found = restore([("claim|1|a", b""), ("X@1", saved(b"x")), ("X@1", None)])
    assert found.attempts == {}
    assert found.outdated == []


@pytest.fixture
def clock():
    return ManualClock(1_700_000_000.0)


def daemon(log, state, clock, name):
    judge = Judge(lambda record: [], Gates())
    store = FleetStore(judge, state, log.connect, clock, name, log.head.partitions)
    return judge, store, Lane(judge, log.connect, store, clock)


def chunk(n):
    return encode(MetricChunk(f"run{n}", f"A{n}", "sdk", 0, [Series("loss", [1], [0.5], [1_700_000_000.0])]))


def test_state_follows_its_partition_and_the_claim_stands_before_anything_is_decided(clock):
    log, state = MemoryLog(clock, 4), MemoryStateLog()
    bus = log.connect()
    bus.publish([Message(METRICS, f"run{n}", chunk(n)) for n in range(20)])
    one, store, lane = daemon(log, state, clock, "one")
    while lane.step(clock.now()):
        pass
    assert len(one.attempts) == 20
    assert store.epochs == dict.fromkeys(range(4), 1)
    lane.drain()
    before = {name: attempt.dump() for name, attempt in one.attempts.items()}
    two, store, lane = daemon(log, state, clock, "two")
    lane.step(clock.now())
    assert {name: attempt.dump() for name, attempt in two.attempts.items()} == before
    assert store.epochs == dict.fromkeys(range(4), 2)
    claims = [decode(r.body) for n in range(4) for r in bus.follow_partitions(CONTROL, {n: 0})[0]]
    assert [(c.partition, c.epoch, c.daemon) for c in claims if isinstance(c, Claim)] == [
        (n, epoch, name) for n in range(4) for epoch, name in ((1, "one"), (2, "two"))
    ]
    clock.turn(31.0)
    lane.step(clock.now())
    assert len([r for n in range(4) for r in bus.follow_partitions(CONTROL, {n: 0})[0]]) == 12  # said again


def test_who_hears_of_a_higher_claim_gives_everything_up_and_asks_anew(clock):
    log, state = MemoryLog(clock, 1), MemoryStateLog()
    _, store, lane = daemon(log, state, clock, "one")
    lane.step(clock.now())
    log.connect().publish([Message(CONTROL, "x", encode(Claim(0, 2, "other", clock.now())))])
    with pytest.raises(Unavailable, match="taken partition 0 over"):
        lane.step(clock.now())
    state.write({0: [("claim|2|other", b"")]})
    lane.step(clock.now())
    assert store.epochs == {0: 3}


def test_a_record_that_cannot_be_folded_is_set_aside_once_and_the_partition_goes_on(clock, monkeypatch):
    log, state = MemoryLog(clock, 2), MemoryStateLog()
    bus = log.connect()
    bodies = [chunk(n) for n in range(6)]
    bus.publish([Message(METRICS, "run0", body) for body in bodies])
    judge, _, lane = daemon(log, state, clock, "one")
    handle = judge.handle

    def breaks(records, now):
        if any(one.body == bodies[3] for one in records):
            raise ValueError("cannot be folded")
        return handle(records, now)

    monkeypatch.setattr(judge, "handle", breaks)
    for _ in range(60):
        try:
            lane.step(clock.now())
        except ValueError as error:
            lane.failed(error)
    letters = [r for n in range(2) for r in bus.follow_partitions(DEAD_LETTERS, {n: 0})[0]]
    assert [one.body for one in letters] == [bodies[3]]
    assert sorted(judge.attempts) == ["A0", "A1", "A2", "A4", "A5"]
    assert not lane.failing


class Noted(MemoryStateLog):
    """Keeps what each write held."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, entries):
        self.writes.append({number: [key for key, _ in several] for number, several in entries.items()})
        super().write(entries)


def asked(run):
    return Message(CONTROL, run, encode(Request(f"ask-{run}", run, "prune", "ann", 1_700_000_000.0)))


def test_an_answer_waits_for_its_own_attempt_and_not_for_all_that_changed(clock):
    log, state = MemoryLog(clock, 2), Noted()
    bus = log.connect()
    judge, _, lane = daemon(log, state, clock, "one")
    lane.step(clock.now())
    bus.publish([Message(METRICS, f"run{n}", chunk(n)) for n in range(20)])
    lane.step(clock.now())
    state.writes.clear()
    bus.publish([asked("run7")])
    lane.step(clock.now())
    partition = judge.attempts["A7"].partition
    assert state.writes == [{partition: ["A7@1"]}]
    _, entry = state.read(partition)[-1]
    assert len(msgspec.msgpack.decode(entry, type=Saved).answers) == 2  # the decision, and a notice of its refusal
    assert restore(state.read(partition)).head.folded == {}  # the others are not written yet: the cursor stays
    log.groups.put_out("judge", lane._bus.number)  # killed
    two, _, second = daemon(log, state, clock, "two")
    while second.step(clock.now()):
        pass
    assert {name: one.dump() for name, one in two.attempts.items()} == {name: one.dump() for name, one in judge.attempts.items()}
    assert two.counters["decisions_refused"] == 0  # it is not decided again


def test_a_round_writes_slices_and_moves_the_cursor_to_where_it_began(clock, monkeypatch):
    monkeypatch.setattr(fleet, "SLICE", 3)
    log, state = MemoryLog(clock, 1), Noted()
    bus = log.connect()
    _, _, lane = daemon(log, state, clock, "one")
    lane.step(clock.now())
    bus.publish([Message(METRICS, f"run{n}", chunk(n)) for n in range(8)])
    lane.step(clock.now())
    state.writes.clear()
    clock.turn(fleet.SAVE_EVERY_S)
    lane.step(clock.now())
    bus.publish([Message(METRICS, "run8", chunk(8))])  # after the round began
    while len(state.writes) < 3:
        lane.step(clock.now())
    assert [len(one[0]) for one in state.writes] == [3, 3, 3]
    assert state.writes[-1][0][-1] == "head|1"
    found = restore(state.read(0))
    assert sorted(found.attempts) == [f"A{n}" for n in range(8)]
    assert found.head.folded[METRICS] == 8
    clock.turn(fleet.SAVE_EVERY_S)
    lane.step(clock.now())
    assert restore(state.read(0)).head.folded[METRICS] == 9


def test_what_is_ahead_of_the_cursor_stays_so_when_it_is_saved_again(clock):
    log, state = MemoryLog(clock, 1), Noted()
    bus = log.connect()
    judge, _, lane = daemon(log, state, clock, "one")
    bus.publish([Message(METRICS, f"run{n % 2}", chunk(n % 2)) for n in range(10)])
    lane.step(clock.now())
    bus.publish([asked("run1")])
    lane.step(clock.now())
    behind = restore(state.read(0))
    assert (behind.head.folded, behind.attempts["A1"].folded[METRICS]) == ({}, 10)
    log.groups.put_out("judge", lane._bus.number)  # killed
    _, _, second = daemon(log, state, clock, "two")
    second._single = 1  # a record a turn, each saved at once
    second.step(clock.now())
    found = restore(state.read(0))
    assert (found.head.folded[METRICS], found.attempts["A1"].folded[METRICS]) == (1, 10)
    log.groups.put_out("judge", second._bus.number)
    three, _, third = daemon(log, state, clock, "three")
    while third.step(clock.now()):
        pass
    assert {name: one.series for name, one in three.attempts.items()} == {name: one.series for name, one in judge.attempts.items()}
