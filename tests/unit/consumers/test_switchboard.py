"""Pause and hold in the judge: what they keep from a job, what they let pass, and what speaks again behind them."""

import msgspec
import pytest
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies.divergence import Divergence
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.policies.plateau import Plateau
from smarttuner.consumers.rules import Rule
from smarttuner.core import events
from smarttuner.core.events import Ack, Decision, MetricChunk, Notice, Request, RunEvent, Series, Started
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record
from smarttuner.core.switches import ALL, MOST_SWITCHES
from smarttuner.daemon.gates import Gates

START = 1_700_000_000.0
ALLOW = ["lr", "checkpoint", "restore", "prune"]


class Log:
    """One partition's records, a second apart."""

    def __init__(self, partition=0):
        self.records, self.partition, self.asked = [], partition, 0

    def add(self, topic, event, after=1.0):
        time = (self.records[-1].time if self.records else START) + after
        offset = sum(one.topic == topic for one in self.records)
        self.records.append(Record(topic, self.partition, offset, "k", events.encode(event), time))
        return self.records[-1]

    def start(self, run="r", attempt="A", **said):
        said = {"monitor": "val_loss", "goal": "min", "allow": ALLOW, **said}
        self.add(RUNS, RunEvent(run, attempt, "started", START, seq=0, started=Started(**said)))

    def point(self, step, value=2.0, run="r", attempt="A", after=1.0):
        time = self.records[-1].time
        self.add(METRICS, MetricChunk(run, attempt, "sdk", step + 1, [Series("val_loss", [step], [value], [time])]), after)

    def points(self, first, count, **more):
        for step in range(first, first + count):
            self.point(step, **more)

    def ask(self, action, run="r", reason="", after=1.0, **params):
        self.asked += 1
        self.add(CONTROL, Request(f"q{self.asked}", run, action, "ann", START, params, reason), after)


def stops(*more):
    return [Rule(Patience(patience=2), None, "act"), *more]


def judge(*rules, **limits):
    return Judge(lambda record: list(rules) or stops(), Gates(**limits))


def take(one, log, kind=Decision):
    """What the judge says about the records that came since."""
    new, log.taken = log.records[getattr(log, "taken", 0) :], len(log.records)
    said = [events.decode(message.body) for message in one.handle(new, new[-1].time + 0.5)]
    return [event for event in said if isinstance(event, kind)]


def told(decisions):
    return [(one.action, one.status, (one.refused_by or "").partition(":")[0]) for one in decisions]


@pytest.mark.parametrize("run", ["r", ALL])
def test_under_a_pause_a_conclusion_is_would_and_behind_it_the_next_point_is_a_new_trigger(run):
    log, one = Log(), judge()
    log.start()
    log.ask("pause", run, "why not")
    log.points(0, 6)
    (first,) = take(one, log)
    assert told([first]) == [("prune", "would", "paused")]
    assert first.mode == "observe"
    assert first.refused_by.endswith("2023-11-14T22:13:22Z (why not)")
    log.ask("resume", run)
    log.points(6, 3)
    (second,) = take(one, log)
    assert told([second]) == [("prune", "pending", "")]
    assert second.trigger == "sdk:7"


def test_what_was_silent_for_another_reason_stays_silent_behind_a_pause():
    log, one = Log(), judge(Rule(Patience(patience=2), None, "observe"), Rule(Divergence(), None, "act"))
    log.start()
    log.points(0, 4)
    assert told(take(one, log)) == [("prune", "would", "")]
    log.ask("pause")
    log.ask("resume")
    log.points(4, 4)
    assert take(one, log) == []


def test_a_pause_of_one_run_is_no_pause_of_another_nor_of_a_persons_word():
    log, one = Log(), judge()
    for run in "rs":
        log.start(run, run.upper())
    log.start("t", "T")
    log.ask("pause", "r")
    log.points(0, 4, run="r", attempt="R")
    log.points(0, 4, run="s", attempt="S")
    log.ask("checkpoint", "r")
    assert [(d.run, d.action, d.status) for d in take(one, log)] == [
        ("r", "prune", "would"),
        ("s", "prune", "pending"),
        ("r", "checkpoint", "pending"),
    ]


def test_an_alert_and_a_change_that_goes_on_pass_a_pause():
    log, one = Log(), judge(Rule(Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=0), None, "act"))
    log.start()
    log.points(0, 3)
    (scaled,) = take(one, log)
    log.add(RUNS, Ack(scaled.id, "r", "A", "applied", START, seq=90))
    log.ask("pause", ALL)
    log.start(attempt="B", parent="A")
    log.points(0, 3, attempt="B")
    assert told(take(one, log)) == [("scale-lr", "pending", ""), ("scale-lr", "refused", "pending")]


def test_a_pause_with_an_end_is_over_at_its_append_time_though_nobody_has_noticed():
    log, one = Log(), judge()
    log.start()
    log.ask("pause", for_s=10)
    log.points(0, 9)
    assert told(take(one, log)) == [("prune", "would", "paused")]
    log.points(9, 1)  # 10 s behind the request: the first point that is not under the pause
    said = take(one, log, Decision | Notice)
    (again,) = [event for event in said if isinstance(event, Decision)]
    assert (again.status, again.trigger) == ("pending", "sdk:10")
    assert said[0].text.startswith("r: its time is over: ann paused this run")
    assert one.handle([], log.records[-1].time + 1.0) == []  # that its time is over was told then, and is not told again


def test_the_later_end_of_two_pauses_counts():
    log, one = Log(), judge()
    log.start()
    log.ask("pause", for_s=3)
    log.ask("pause", ALL, for_s=60)
    log.points(0, 8)
    log.ask("resume")
    log.points(8, 4)
    assert told(take(one, log)) == [("prune", "would", "paused")]
    log.ask("resume", ALL)
    log.point(12)
    assert told(take(one, log)) == [("prune", "pending", "")]


def test_a_held_run_is_not_ended_by_a_policy_nor_by_a_person_and_the_rest_goes_on():
    log, one = Log(), judge(*stops(Rule(Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=0), None, "act")))
    log.start()
    log.ask("hold", reason="the baseline")
    log.points(0, 4)
    log.ask("prune")
    got = take(one, log)
    assert [one for one in told(got) if one[0] == "prune"] == [("prune", "refused", "hold")] * 2
    assert ("scale-lr", "pending", "") in told(got)
    assert "smart-tuner unhold r" in got[-1].refused_by
    log.start(attempt="B")
    log.points(0, 4, attempt="B")
    assert ("prune", "refused", "hold") in told(take(one, log))
    log.ask("unhold")
    log.point(4, attempt="B")
    (ended,) = [one for one in take(one, log) if one.action == "prune"]
    assert (ended.attempt, ended.status) == ("B", "pending")


def test_best_weights_whose_order_a_pause_kept_back_are_ordered_behind_it():
    rule = Rule(Patience(patience=3, restore_best_weights=True), None, "act")
    for action, params in (("resume", {}), ("pause", {"for_s": 2})):
        log, one = Log(), judge(rule)
        log.ask("pause")
        log.start()
        assert told(take(one, log)) == [("keep-best", "would", "paused")]
        log.ask(action, **params)
        log.point(0, after=5.0)
        orders = take(one, log) or [events.decode(m.body) for m in one.handle([], log.records[-1].time)]  # or time passes
        (order,) = [event for event in orders if isinstance(event, Decision)]
        assert told([order]) == [("keep-best", "pending", "")]


def test_switches_and_what_they_silenced_are_saved_and_read_again_anywhere():
    log, one = Log(partition=3), judge()
    log.start()
    log.ask("pause", ALL)
    log.ask("hold", for_s=1000)
    log.points(0, 4)
    take(one, log)
    bodies, body = one.changes()
    here = judge()
    here.load(bodies, body)
    elsewhere = judge()
    elsewhere.load({}, None)
    elsewhere.take(3, {name: (text, {}) for name, text in bodies.items()}, one.own(3))
    for again in (here, elsewhere):
        assert [(s.kind, s.run) for s in again.switches.now(log.records[-1].time)] == [("pause", ALL), ("hold", "r")]
        behind = Log(partition=3)
        behind.records = list(log.records)
        behind.taken = log.taken
        behind.ask("resume", ALL)
        behind.ask("unhold")
        behind.point(4)
        assert told(take(again, behind)) == [("prune", "pending", "")]
    elsewhere.drop(3)
    assert elsewhere.switches.now(START) == []


def test_another_partitions_switch_is_not_this_ones():
    log, one, other = Log(0), judge(), Log(1)
    log.start()
    other.start("s", "S")
    other.ask("pause", ALL)
    take(one, other)
    log.points(0, 4)
    assert told(take(one, log)) == [("prune", "pending", "")]


def test_a_rebuilt_judge_knows_of_a_pause_what_the_log_tells():
    log, one = Log(), judge()
    log.start()
    log.ask("pause")
    log.points(0, 4)
    (would,) = take(one, log)
    log.add(CONTROL, would)
    for end in (False, True):
        if end:
            log.ask("resume")
        again = Judge(lambda record: stops(), Gates(), not_after_s=0.0)  # all is backlog to it
        again.handle(log.records, log.records[-1].time + 100.0)
        again._not_after_s = 600.0
        behind = Log()
        behind.records, behind.taken = list(log.records), len(log.records)
        behind.point(4)
        assert told(take(again, behind)) == ([("prune", "pending", "")] if end else [])


def test_a_request_folded_before_is_not_folded_again_into_an_attempt_that_is_ahead():
    log, one = Log(), judge()
    log.start()
    log.ask("pause")
    log.ask("resume")
    log.ask("pause")
    log.points(0, 4)
    take(one, log)
    bodies, _ = one.changes()
    again = judge()
    again.take(0, {"A": (bodies["A"], {CONTROL: 3, METRICS: 4, RUNS: 1})}, b"")  # the head is as it was before the switches
    assert [one for one in again.handle(log.records, log.records[-1].time) if isinstance(events.decode(one.body), Decision)] == []
    assert again.attempts["A"].standing.silenced == {"patience/val_loss": "pause"}
    assert [one.request for one in again.switches.now(log.records[-1].time)] == ["q3"]


WRONG = [("pause", "-", {}), ("hold", ALL, {}), ("unhold", ALL, {})]
WRONG += [("pause", "r", {"for_s": said}) for said in (0, -1, "2h", True, 1e12, "Infinity", [1])]


@pytest.mark.parametrize(("action", "run", "params"), WRONG)
def test_a_request_that_makes_no_sense_switches_nothing_and_is_told(action, run, params):
    log, one = Log(), judge()
    log.start()
    log.ask(action, run, **params)
    (notice,) = take(one, log, Notice)
    assert "ann asked for" in notice.text
    assert one.counters["switches_refused"] == 1
    assert one.switches.now(START) == []


def test_there_are_only_so_many_switches_of_a_partition():
    log, one = Log(), judge()
    for number in range(MOST_SWITCHES + 1):
        log.ask("hold", f"r{number}")
    take(one, log)
    assert one.counters["switches_refused"] == 1
    assert len(one.switches.now(log.records[-1].time)) == MOST_SWITCHES


def test_a_very_long_reason_does_not_stop_the_outbox():
    log, one = Log(), judge()
    log.start()
    log.ask("pause", reason="x" * 60_000)
    log.points(0, 4)
    (would,) = take(one, log)
    assert len(msgspec.json.encode(would)) < 4096
