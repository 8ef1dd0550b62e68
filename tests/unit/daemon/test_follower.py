"""Decisions on their way from control onto their jobs' pages."""

from collections import Counter

from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.placements import Placements
from smarttuner.bus.spool import Spool
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import Decision, encode
from smarttuner.core.ports import CONTROL, Message
from smarttuner.core.ulid import ulid
from smarttuner.daemon.edge_control import Follower


def test_who_published_a_decision_can_place_it_without_waiting_for_the_thread(tmp_path):
    clock, counters = SystemClock(), Counter()
    log = MemoryLog(clock)
    spool = Spool.create(str(tmp_path), "r", ulid(clock.now()), str(tmp_path), 1 << 16)
    placements = Placements(clock, counters)
    placements.arrived(spool.attempt, spool.fd)
    follower = Follower(log.connect, log.mark, placements, clock, counters)
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
