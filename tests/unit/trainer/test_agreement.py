"""The two phases between ranks that are threads of one process, over a store in memory."""

import signal
import threading
import time

import pytest
from smarttuner.bus.control_page import Order
from smarttuner.core.clock import ManualClock, SystemClock
from smarttuner.trainer import gate
from smarttuner.trainer import leading as leading_module
from smarttuner.trainer.agreement import Leader, Member
from smarttuner.trainer.checkpoints import Parts
from smarttuner.trainer.gate import Due, Gate
from smarttuner.trainer.leading import Leading
from smarttuner.trainer.ranks import Peer, Seat, Table, find_seat
from smarttuner.trainer.voice import Voice

PATIENCE_S = 60.0


class Store:
    """As much of torch's store as a table asks for."""

    def __init__(self):
        self.said, self._lock = {}, threading.Lock()

    def set(self, key, value):
        with self._lock:
            self.said[key] = value.encode()

    def check(self, keys):
        return all(key in self.said for key in keys)

    def get(self, key):
        return self.said[key]

    def compare_set(self, key, expected, value):
        with self._lock:
            return self.said.setdefault(key, value.encode())


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found


class Job:
    """Ranks that pass boundaries when they are told to."""

    def __init__(self, ranks=3, refuse=lambda rank, order: ""):
        self.store = Store()
        self.met = []
        common = [SystemClock(), Voice(quiet=True)]

        def parts(rank):
            return [Seat(rank, ranks), lambda: Table(self.store), lambda order: refuse(rank, order), *common]

        self.leader = Leader(*parts(0), hello={"run": "r"})
        self.members = [Member(*parts(rank), met=self.met.append) for rank in range(1, ranks)]
        self.all = [self.leader, *self.members]

    def begin(self):
        for one in self.all:
            one.begin()
        return self

    def step_until_due(self, orders):
        """Every rank steps in turn until each has been handed something: (boundary, orders) by rank."""
        self.leader.propose(orders)
        found = {}
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < len(self.all):
            assert time.monotonic() < deadline
            for rank, one in enumerate(self.all):
                if rank not in found and (due := one.gate.pass_boundary()) is not None:
                    found[rank] = (one.gate.count, [order.id for order in due.orders])
            time.sleep(0.001)
        return found


@pytest.fixture
def job():
    made = []

    def begin(*args, **more):
        made.append(Job(*args, **more).begin())
        return made[-1]

    yield begin
    for one in made:
        for rank in one.all:
            rank.close()
            assert not rank._thread.is_alive()


ORDERS = [Order("a", "scale-lr"), Order("b", "prune")]


def test_rank_0_ends_once_every_rank_knows_how_the_last_decision_ended(job, monkeypatch):
    ranks, leading = job(), Leading(Parts(), Voice(quiet=True))
    leading.lead(ranks.leader, lambda order, step: None, lambda *_: None)
    ranks.leader.propose([Order("b", "prune")])

    def follow(member):
        due = until(member.gate.pass_boundary)
        member.table.put(f"at/{due.number}/{member.seat.rank}", 0)

    threads = [threading.Thread(target=follow, args=(one,)) for one in ranks.members]
    threads.append(threading.Thread(target=until, args=(lambda: leading.boundary(0) or leading._last >= 0,)))
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    closing = threading.Thread(target=leading.close)
    closing.start()
    ranks.members[0].table.put("taken/0/1", True)
    assert ranks.leader._thread.is_alive()  # rank 2 has not said so
    ranks.members[1].table.put("taken/0/2", True)
    closing.join(PATIENCE_S)
    assert not ranks.leader._thread.is_alive()
    monkeypatch.setattr(leading_module, "FAREWELL_WAIT_S", 0.0)
    leading._last = 1
    leading.close()  # of a rank that never says so it does not wait for ever


def test_every_rank_is_handed_the_same_orders_at_the_same_boundary_again_and_again(job):
    ranks = job()
    for _ in range(3):
        found = ranks.step_until_due(ORDERS)
        assert len({repr(one) for one in found.values()}) == 1
        assert found[0][1] == ["a", "b"]
    assert [hello["run"] for hello in ranks.met] == ["r", "r"]
    assert ranks.leader.taken_refusals() == []


def test_what_one_rank_refuses_is_refused_for_all_and_the_rest_goes_on(job):
    ranks = job(refuse=lambda rank, order: "it gave no optimizer" if (rank, order.id) == (2, "a") else "")
    found = ranks.step_until_due(ORDERS)
    assert {tuple(orders) for _, orders in found.values()} == {("b",)}
    assert ranks.leader.taken_refusals() == [(ORDERS[0], "refused", "rank 2: it gave no optimizer")]


def test_ranks_far_apart_still_meet_at_one_boundary(job):
    ranks = job(2)
    for _ in range(500):
        ranks.members[0].gate.pass_boundary()
    found = ranks.step_until_due(ORDERS)
    assert found[0] == found[1]
    assert found[0][0] > 500


def refusals(ranks):
    until(lambda: ranks.leader.refusals)
    return ranks.leader.taken_refusals()


class LateClock(ManualClock):
    """Stands still until a key is in the store, however late that is; from then on a minute passes at each look."""

    def __init__(self, store, key):
        super().__init__()
        self._store, self._key = store, key

    def monotonic(self):
        if self._store.check([self._key]):
            self.turn(60.0)
        return super().monotonic()

    def sleep(self, seconds):
        time.sleep(seconds)


def test_a_rank_that_never_attached_is_named():
    ranks = Job()
    ranks.leader.clock = LateClock(ranks.store, "here/1")
    for one in ranks.all[:2]:
        one.begin()
    ranks.leader.propose(ORDERS[:1])
    assert refusals(ranks) == [(ORDERS[0], "failed", "rank 2 is not attached: call attach on every rank")]
    assert ranks.leader.idle
    for one in ranks.all[:2]:
        one.close()


def test_a_rank_that_does_not_answer_voids_the_order_and_none_waits_on(job):
    ranks = job(3)
    ranks.leader.clock = LateClock(ranks.store, "vote/0/1")
    silent = threading.Event()
    ranks.members[1]._vote = lambda *_: silent.wait(PATIENCE_S)
    ranks.leader.propose(ORDERS[:1])
    assert refusals(ranks) == [(ORDERS[0], "failed", "not agreed: rank 2 did not answer within 5 s")]
    for one in ranks.all[:2]:
        for _ in range(100):
            assert one.gate.pass_boundary() is None
    silent.set()


def test_a_dead_process_voids_the_order_at_once(job):
    ranks = job(2)
    until(lambda: ranks.store.check(["here/1"]))
    me = Peer.of_this_process()
    Table(ranks.store).put("here/1", Peer(me.boot, me.namespace, 2**22 + 1, 17))
    ranks.leader.propose(ORDERS[:1])
    assert refusals(ranks)[0][2] == "not agreed: rank 1 (pid 4194305) has died"


def test_a_member_whose_leader_has_left_waits_no_longer(job):
    ranks = job(2)
    until(lambda: ranks.met)
    table = Table(ranks.store)
    table.put("arm/0", ORDERS)
    until(lambda: ranks.store.check(["vote/0/1"]))
    table.put("gone/0", True)
    for _ in range(2000):  # whatever its hold was
        assert ranks.members[0].gate.pass_boundary() is None
    assert "void" in table.read("plan/0")


def test_a_store_that_fails_fails_the_order_and_lets_every_rank_go(job):
    ranks = job(2)
    until(lambda: ranks.met)

    def broken(*_):
        raise RuntimeError("connection reset")

    ranks.store.check = broken
    ranks.leader.propose(ORDERS[:1])
    assert refusals(ranks)[0][1:] == ("failed", "the ranks could not agree: connection reset")
    until(lambda: not ranks.leader._thread.is_alive())
    ranks.leader.propose(ORDERS[1:])
    assert refusals(ranks)[0][:2] == (ORDERS[1], "failed")
    for one in ranks.all:
        assert one.gate.pass_boundary() is None


def test_without_a_process_group_the_order_fails_with_the_reason():
    leader = Leader(Seat(0, 2), lambda: None, lambda _: "", SystemClock(), Voice(quiet=True), hello={})
    leader.begin()
    leader.propose(ORDERS[:1])
    until(lambda: leader.refusals)
    assert leader.taken_refusals()[0][2] == "the ranks share no store yet: torch.distributed is not initialised"
    leader.close()
    assert not leader._thread.is_alive()


def test_a_process_group_that_comes_after_attach_is_found():
    there = threading.Event()
    ranks = Job(2)
    for one in ranks.all:
        one._open_table = lambda: Table(ranks.store) if there.is_set() else None
    ranks.begin()
    ranks.leader.propose(ORDERS[:1])
    assert "not initialised" in refusals(ranks)[0][2]
    there.set()
    found = ranks.step_until_due(ORDERS[1:])
    assert found[0] == found[1]
    for one in ranks.all:
        one.close()


def test_a_training_thread_waits_at_its_hold_until_the_plan_is_there():
    one, passed = Gate(SystemClock()), []
    hold = one.arm(0.0)
    assert hold == gate.LEAST_AHEAD
    training = threading.Thread(target=lambda: passed.extend(one.pass_boundary() for _ in range(4)))
    training.start()
    until(lambda: one.count == hold)
    assert len(passed) == hold - 1
    one.resolve(due := Due(0, hold + 1, ()))
    training.join(PATIENCE_S)
    assert passed == [None, None, due, None]


def test_a_waiting_rank_is_ended_by_the_jobs_own_signal_handler():
    one = Gate(SystemClock())
    one.arm(0.0)

    def handler(*_):
        raise KeyboardInterrupt

    def interrupt():
        until(lambda: one.count == gate.LEAST_AHEAD)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(gate.LEAST_AHEAD - 1):
            one.pass_boundary()
        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            one.pass_boundary()
        other.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert one.count == gate.LEAST_AHEAD


def test_a_gate_whose_plan_never_comes_opens_again(monkeypatch):
    monkeypatch.setattr(gate, "HOLD_WAIT_S", 0.1)
    one = Gate(SystemClock())
    one.arm(0.0)
    assert [one.pass_boundary() for _ in range(5)] == [None] * 5
    one.resolve(late := Due(0, 3, ()))
    assert one.pass_boundary() is late  # handed over with a boundary that is behind: its reader voids it
    assert one.pass_boundary() is None


def test_fast_steps_are_held_further_ahead():
    clock = ManualClock()
    one = Gate(clock)
    clock.turn(0.03)
    one.count = 300
    one.sample()
    assert gate.LEAST_AHEAD + 100 < one.arm() - one.count <= gate.MOST_AHEAD


def test_a_seat_is_read_from_the_launchers_environment():
    assert find_seat({}) == Seat(0, 1, -1)
    assert find_seat({"RANK": "2", "WORLD_SIZE": "4", "TORCHELASTIC_RESTART_COUNT": "1"}) == Seat(2, 4, 1)
    assert find_seat({"RANK": "x", "WORLD_SIZE": ""}) == Seat(0, 1, -1)
    assert Seat(0, 2, 0).suffix("01ABCDEF") == Seat(0, 2, 3).suffix("01OTHERS")
    assert Seat().suffix("01ABCDEF") == "abcdef"
