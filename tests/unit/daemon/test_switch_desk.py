"""Who may switch what, and that each partition of the log gets the request."""

import os

import pytest
from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.partitions import partition_of
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import UsageError
from smarttuner.core.events import Request, decode
from smarttuner.core.ports import CONTROL
from smarttuner.core.switches import ALL, Switch, Switches
from smarttuner.daemon.edge_line import Peer
from smarttuner.daemon.subject import Subject, user_name
from smarttuner.daemon.switch_desk import SwitchDesk

ANN, BOB = 54_321, 54_322
"""Users who run neither this process nor the host."""
PARTITIONS = 4


class Desk:
    def __init__(self):
        self.clock = ManualClock()
        self.log = MemoryLog(self.clock, PARTITIONS)
        self.switches = Switches()
        self.judged = set(range(PARTITIONS))
        self.desk = SwitchDesk(self.switches, self.log.connect(), self.clock, PARTITIONS, lambda: self.judged)

    def ask(self, action, run=None, uid=os.getuid(), **more):
        query = {"action": action, "run": run, "all": run is None} | more
        return self.desk.switch(query, Peer(1, uid, uid), {"anns": Subject("anns", "A", "g", ANN, "ann")}.get)

    def requests(self):
        """partition -> the requests there."""
        records = self.log.connect().poll([CONTROL], "reader", lambda partition: 0).records
        found = {}
        for record in records:
            found.setdefault(record.partition, []).append(decode(record.body))
        return found

    def off(self, kind, run, by="ann"):
        for number in range(PARTITIONS):
            self.switches.add(number, Switch(kind, run, by, self.clock.now(), float("inf"), "", "q"))


@pytest.fixture
def desk():
    return Desk()


@pytest.mark.parametrize("run", [None, "anns"])
def test_each_partition_gets_the_request_once_and_one_of_them_tells_of_it(desk, run):
    answer = desk.ask("pause", run, reason="why", for_s=60)
    found = desk.requests()
    assert set(found) == set(range(PARTITIONS))
    for (one,) in found.values():
        assert isinstance(one, Request)
        assert (one.id, one.run, one.action, one.reason) == (answer["request"], run or ALL, "pause", "why")
        assert (one.by, one.params["for_s"]) == (user_name(os.getuid()), 60)
    tells = [number for number, (one,) in found.items() if "copied" not in one.params]
    assert tells == [0 if run is None else partition_of("g", PARTITIONS)]


def test_it_is_in_force_when_all_that_are_judged_here_have_read_it(desk):
    name = desk.ask("pause")["request"]
    desk.judged = {1, 2}
    desk.switches.hear(1, name)
    assert desk.desk.in_force({"request": name}) == {"in_force": False}
    desk.switches.hear(2, name)
    assert desk.desk.in_force({"request": name}) == {"in_force": True}
    desk.judged = set()
    assert desk.desk.in_force({"request": name}) == {"in_force": None}


@pytest.mark.parametrize("action", ["pause", "resume", "hold", "unhold"])
def test_a_run_is_switched_by_its_owner_and_the_operator_and_by_nobody_else(desk, action):
    assert "request" in desk.ask(action, "anns", ANN)
    assert "request" in desk.ask(action, "anns", 0)
    refused = desk.ask(action, "anns", BOB)
    assert "may not decide about a run of ann" in refused["refused"]
    assert "operator" in refused["hint"]
    assert len(desk.requests()[0]) == 2


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_all_runs_are_switched_by_the_operator_alone(desk, action):
    assert f"smart-tuner {action} RUN" in desk.ask(action, uid=ANN)["hint"]
    assert "request" in desk.ask(action)


def test_a_run_that_nobody_knows_any_more_is_switched_on_again_by_who_switched_it_off(desk):
    assert desk.ask("unhold", "gone") is None
    desk.off("hold", "gone", by=user_name(ANN))
    assert "may not end what" in desk.ask("unhold", "gone", BOB)["refused"]
    assert desk.ask("unhold", "gone", ANN)["was"]["run"] == "gone"
    assert desk.ask("resume", "gone", ANN) is None


def test_a_run_that_is_paused_with_all_is_not_resumed_alone(desk):
    desk.off("pause", ALL)
    assert "resume --all" in desk.ask("resume", "anns")["hint"]
    desk.off("pause", "anns")
    assert "paused all runs" in desk.ask("resume", "anns")["stays"]
    assert desk.ask("resume")["stays"] is None


def test_runs_say_what_is_switched_off(desk):
    assert desk.desk.control(0, "anns") is None
    desk.off("hold", "anns")
    assert desk.desk.control(0, "anns") == "held"
    desk.off("pause", ALL)
    assert desk.desk.control(0, "anns") == "paused and held"
    assert desk.desk.control(0, "other") == "paused"
    assert [(one["kind"], one["run"]) for one in desk.desk.shown()] == [("pause", None), ("hold", "anns")]


@pytest.mark.parametrize(
    "wrong", [{"action": "stop"}, {"action": "hold", "all": True}, {"for_s": "2h"}, {"for_s": -1}, {"for_s": True}]
)
def test_a_query_that_makes_no_sense_is_a_usage_error(desk, wrong):
    with pytest.raises(UsageError):
        desk.ask(**{"action": "pause", "run": "anns", **wrong})
