"""state.db: all or nothing, and a file that is damaged, newer or full is told with a hint and costs a rebuild at most."""

import os
import pathlib
import sqlite3
from contextlib import closing, suppress

import pytest
from smarttuner.bus import database
from smarttuner.bus.local import LocalLog
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.policies.plateau import Plateau
from smarttuner.consumers.rules import Rule
from smarttuner.core.clock import ManualClock, SystemClock
from smarttuner.core.errors import Unavailable
from smarttuner.core.events import Decision, MetricChunk, RunEvent, Series, Started, decode, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Message
from smarttuner.daemon.gates import Gates
from smarttuner.daemon.lane import Lane
from smarttuner.daemon.state import FOLD_BYTES, State
from smarttuner.daemon.stores import JudgeStore

ANSWERS = [Message("control", "k", b"1", (("h", b"x"),)), Message("notices", "k", b"2")]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "state.db")


def opened(path):
    return State(path, ManualClock())


def fill(state):
    with state.transaction():
        state.save({"A": b"one", "B": b"two"}, b"judge")
        state.add(ANSWERS)
        state.advance({(METRICS, 0): 5, (RUNS, 1): 7})


def everything(state):
    return state.load(), state.positions(), [message for _, message in state.unsent()]


def test_what_was_committed_is_there_when_it_is_opened_again(path):
    state = opened(path)
    fill(state)
    state.close()
    assert everything(opened(path)) == (({"A": b"one", "B": b"two"}, b"judge"), {(METRICS, 0): 5, (RUNS, 1): 7}, ANSWERS)


def test_an_attempt_that_is_forgotten_is_gone_and_the_others_stay(path):
    state = opened(path)
    fill(state)
    with state.transaction():
        state.save({"A": None}, b"later")
    assert state.load() == ({"B": b"two"}, b"later")


def test_a_transaction_that_fails_leaves_nothing_of_itself(path):
    state = opened(path)
    fill(state)
    before = everything(state)
    with suppress(KeyError), state.transaction():
        state.save({"A": b"changed", "C": b"new"}, b"changed")
        state.add(ANSWERS)
        state.advance({(METRICS, 0): 99})
        raise KeyError
    assert everything(state) == before


def test_the_outbox_keeps_its_order_and_forgets_only_what_was_sent(path):
    state = opened(path)
    fill(state)
    fill(state)
    numbers = [n for n, _ in state.unsent()]
    assert numbers == sorted(numbers)
    state.mark_sent(numbers[:3])
    assert [message for _, message in state.unsent()] == ANSWERS[1:]


def test_a_full_disk_is_unavailable_with_a_hint_and_changes_nothing(path):
    state = opened(path)
    fill(state)
    before = everything(state)
    state._db.execute("PRAGMA max_page_count=1")
    with pytest.raises(Unavailable, match="full") as caught, state.transaction():
        state.save({"A": b"x" * 100_000}, b"")
    assert "free space" in caught.value.hint
    assert everything(state) == before


def test_a_newer_file_is_refused_with_a_hint_and_left_as_it_is(path):
    opened(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=2")
    body = pathlib.Path(path).read_bytes()
    with pytest.raises(database.NewerVersion, match="newer Smart Tuner") as caught:
        opened(path)
    assert "newer release" in caught.value.hint
    assert pathlib.Path(path).read_bytes() == body


def test_a_file_that_another_process_holds_is_unavailable_and_not_taken_for_damaged(path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_MS", 10)
    opened(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable):
            opened(path)
    assert opened(path).damaged is None


DAMAGE = {
    "no database": lambda body: b"not a database" * 100,
    "a header only": lambda body: body[:100],
    "cut in half": lambda body: body[: len(body) // 2],
    "zeros in the middle": lambda body: body[:4096] + bytes(8192) + body[12288:],
    "random in the middle": lambda body: body[:5000] + os.urandom(6000) + body[11000:],
}


class House:
    """The judge over a real local log."""

    def __init__(self, folder):
        self.clock, self.folder = ManualClock(), folder
        self.log = LocalLog(str(folder), self.clock, housekeeping=False)
        self.start()

    def start(self):
        self.state = State(str(self.folder / "state.db"), self.clock)
        rules = [Rule(Patience(patience=3), None, "act"), Rule(Plateau(factor=0.5, patience=1, threshold=0.0), None, "act")]
        self.judge = Judge(lambda record: rules, Gates())
        self.lane = Lane(self.judge, self.log.connect, JudgeStore(self.judge, self.state, self.clock), self.clock)

    def stream(self, first, n):
        messages = []
        for name in "ABC":
            if first == 0:
                started = Started(monitor="val_loss", allow=["lr", "prune"])
                body = encode(RunEvent(name, name, "started", self.clock.now(), 0, started=started))
                messages.append(Message(RUNS, name, body))
            points = Series("val_loss", list(range(first, first + n)), [2.0] * n, [self.clock.now()] * n)
            messages.append(Message(METRICS, name, encode(MetricChunk(name, name, "sdk", first + 1, [points]))))
        self.log.connect().publish(messages)

    def settle(self):
        for _ in range(50):
            try:
                if not self.lane.step(self.clock.now()):
                    return
            except Unavailable as error:
                self.lane.failed(error)
        raise AssertionError(self.lane.last_error)

    def decisions(self):
        records = self.log.connect().follow(CONTROL, "k", 0)[0]
        return [event for event in (decode(one.body) for one in records) if isinstance(event, Decision)]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_moved_aside_and_rebuilt_with_the_same_ids(tmp_path, damage):
    house = House(tmp_path)
    house.stream(0, 6)
    house.settle()
    first = house.decisions()
    house.lane.drain()
    before = house.judge.attempts["A"].dump()
    house.state.close()
    file = tmp_path / "state.db"
    file.write_bytes(damage(file.read_bytes()))
    house.start()
    assert house.state.damaged is not None
    assert os.path.exists(house.state.damaged)
    house.settle()
    ids = [one.id for one in first]
    assert [one.id for one in house.decisions()] == ids * 2  # concluded again, and the same: who obeyed once is asked nothing new
    assert {one.id: one for one in first} == {one.id: one for one in house.decisions()}
    assert house.judge.attempts["A"].dump() == before


def test_a_file_that_is_damaged_under_way_is_moved_aside_and_rebuilt(tmp_path):
    house = House(tmp_path)
    house.stream(0, 6)
    house.settle()
    ids = [one.id for one in house.decisions()]
    house.state._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    file = tmp_path / "state.db"
    body = file.read_bytes()
    file.write_bytes(body[:4096] + os.urandom(len(body) - 4096))
    house.state._db.execute("PRAGMA cache_size=0")
    house.stream(6, 6)
    house.settle()
    assert house.state.damaged is not None
    after = [one.id for one in house.decisions()]
    assert after[: len(ids)] == ids
    assert set(after) > set(ids)
    assert house.judge.attempts["A"].windows["val_loss"].points == 12


def test_the_write_ahead_log_is_folded_in_beside_the_judge(tmp_path):
    state = State(str(tmp_path / "state.db"), SystemClock())
    wal = tmp_path / "state.db-wal"
    for turn in range(4):
        with state.transaction():
            state.save({f"{turn}-{n}": bytes(2000) for n in range(700)}, b"")
    assert wal.stat().st_size > FOLD_BYTES
    state.fold()
    grown = wal.stat().st_size
    with state.transaction():  # begins the log anew, as all of it is folded in
        state.save({"last": b"one"}, b"")
    assert wal.stat().st_size == grown
    with closing(sqlite3.connect(f"file:{tmp_path}/state.db?immutable=1", uri=True)) as db:  # without the write-ahead log
        assert db.execute("SELECT count(*) FROM attempts").fetchone()[0] == 2800
    db.close()
    assert len(state.load()[0]) == 2801
    state.close()
