"""Decisions on their way from control onto their jobs' pages."""

from collections import Counter

from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.partitions import key_of, partition_of
from smarttuner.bus.placements import Placements
from smarttuner.bus.spool import Spool
from smarttuner.bus.trail import FleetTrail, WholeTrail
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import Claim, Decision, encode
from smarttuner.core.ports import CONTROL, Message
from smarttuner.core.ulid import ulid
from smarttuner.daemon.edge_control import Follower


def test_who_published_a_decision_can_place_it_without_waiting_for_the_thread(tmp_path):
    clock, counters = SystemClock(), Counter()
    log = MemoryLog(clock)
    spool = Spool.create(str(tmp_path), "r", ulid(clock.now()), str(tmp_path), 1 << 16)
    placements = Placements(clock, counters)
    placements.arrived(spool.attempt, spool.fd)
    follower = Follower(log.connect, WholeTrail(log.mark), placements, clock, counters)
    bus, now = log.connect(), clock.now()
    orders = [
        Decision(f"id{n}", "r", spool.attempt, "checkpoint", "person", f"t{n}", "asked", now, now + 60, mode="act")
        for n in range(3)
    ]
    bus.publish([Message(CONTROL, "r", encode(orders[0]))])
    follower.look()
    assert spool.orders() == []  # it does not run yet
    follower.start()
    for one in orders[1:]:
        bus.publish([Message(CONTROL, "r", encode(one))])
        follower.look()
        assert one.id in [order.id for order in spool.orders()]
    follower.stop(5.0)
    follower.look()
    assert [order.id for order in spool.orders()] == ["id0", "id1", "id2"]
    assert counters["orders_placed"] == 3
    spool.close()
    log.close()


class Shared:
    """A log in memory as many hosts would share it."""

    def __init__(self, log, partitions):
        self.log, self.partitions, self.asked = log, partitions, []

    def position_at(self, topic, partition, time_s):
        self.asked.append((topic, partition, time_s))
        return 0


def order(n, attempt, now, epoch):
    return Decision(f"id{n}", "r", attempt, "checkpoint", "person", f"t{n}", "asked", now, now + 60, mode="act", epoch=epoch)


def test_in_a_fleet_only_who_owns_the_partition_is_obeyed(tmp_path):
    clock, counters = SystemClock(), Counter()
    log = MemoryLog(clock, 4)
    spool = Spool.create(str(tmp_path), "r", ulid(clock.now()), str(tmp_path), 1 << 16)
    placements = Placements(clock, counters)
    placements.arrived(spool.attempt, spool.fd)
    shared, keys = Shared(log, 4), set()
    follower = Follower(log.connect, FleetTrail(shared, lambda: keys, clock, counters), placements, clock, counters)
    bus, here, now = log.connect(), partition_of("r", 4), clock.now()
    other = key_of((here + 1) % 4, 4)
    follower.step(bus, 0.0)
    assert shared.asked == []  # no job, no partition
    keys.add("r")

    def send(event, key="r"):
        bus.publish([Message(CONTROL, key, encode(event))])
        follower.step(bus, 0.0)
        return [one.id for one in spool.orders()]

    assert send(order(0, spool.attempt, now, 0)) == []  # nobody has claimed it yet
    assert [(topic, n) for topic, n, _ in shared.asked] == [(CONTROL, here)]
    send(Claim(here, 7, "one", now))
    assert send(order(1, spool.attempt, now, 7)) == ["id1"]
    send(Claim(here, 8, "two", now))
    assert send(order(2, spool.attempt, now, 7)) == ["id1"]  # woke from a pause
    send(Claim(here, 7, "one", now))
    assert send(order(3, spool.attempt, now, 7)) == ["id1"]
    assert send(order(4, spool.attempt, now, 8)) == ["id1", "id4"]
    assert send(order(5, spool.attempt, now, 8), other) == ["id1", "id4"]  # a partition that no job here has
    assert counters["orders_stale"] == 3
    keys.clear()
    follower.step(bus, 0.0)
    keys.add("r")
    follower.step(bus, 0.0)
    assert [(topic, n) for topic, n, _ in shared.asked] == [(CONTROL, here)] * 2  # begins again, where it must
    spool.close()
    log.close()
