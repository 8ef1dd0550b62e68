"""The judge over real policies and gates: one order, the same conclusions however the log was cut, saved and read again."""

import itertools
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers.attempt import RETRY_REFUSED_S
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies.divergence import Divergence
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.policies.plateau import Plateau
from smarttuner.consumers.rules import Rule
from smarttuner.core import events
from smarttuner.core.events import Ack, Decision, MetricChunk, Request, RunEvent, Series, Started
from smarttuner.core.intent import LrIntent
from smarttuner.core.ports import CONTROL, DEAD_LETTERS, METRICS, RUNS, Record
from smarttuner.daemon.gates import Gates

START = 1_700_000_000.0
ALLOW = ["lr", "checkpoint", "restore", "prune"]


class Log:
    """Records in one total order, a millisecond apart."""

    def __init__(self):
        self.records = []
        self.offsets = {}

    def add(self, topic, event, after=0.001):
        body = event if isinstance(event, bytes) else events.encode(event)
        offset = self.offsets[topic] = self.offsets.get(topic, -1) + 1
        time = (self.records[-1].time if self.records else START) + after
        self.records.append(Record(topic, 0, offset, "k", body, time))
        return self.records[-1]

    def start(self, run="r", attempt="A", **said):
        said = {"monitor": "val_loss", "goal": "min", "allow": ALLOW, **said}
        return self.add(RUNS, RunEvent(run, attempt, "started", START, seq=0, started=Started(**said)))

    def points(self, values, seq=1, step=0, attempt="A", run="r", series="val_loss", time=None):
        n = len(values)
        born = [START + i if time is None else time for i in range(n)]
        return self.add(METRICS, MetricChunk(run, attempt, "sdk", seq, [Series(series, list(range(step, step + n)), values, born)]))


def act(*policies):
    return lambda record: [Rule(policy, None, "act") for policy in policies]


def judge(rules=None, gates=None, **options):
    return Judge(rules or act(Patience(patience=3)), gates or Gates(), **options)


def answers(messages, kind=Decision):
    return [e for e in (events.decode(m.body) for m in messages if m.topic != DEAD_LETTERS) if isinstance(e, kind)]


def run(one, log, now=START + 10):
    return one.handle(log.records, now)


def test_a_run_that_stops_improving_is_pruned_once():
    log = Log()
    log.start()
    log.points([3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    out = run(judge(), log)
    (decision,) = answers(out)
    assert (decision.action, decision.status, decision.step, decision.trigger) == ("prune", "pending", 4, "sdk:5")
    assert decision.not_after == decision.time + 600
    assert [n.what for n in answers(out, events.Notice)] == ["prune"]


def test_an_unnamed_attempt_is_watched_and_never_steered():
    log = Log()
    log.points([2.0] * 9)
    (decision,) = answers(run(judge(), log))
    assert decision.status == "would"


def test_a_job_that_observes_makes_every_policy_observe():
    log = Log()
    log.start(mode="observe")
    log.points([2.0] * 9)
    assert [d.status for d in answers(run(judge(), log))] == ["would"]


def test_what_the_job_does_not_allow_is_refused_with_the_reason():
    log = Log()
    log.start(allow=["lr"])
    log.points([2.0] * 9)
    (decision,) = answers(run(judge(), log))
    assert (decision.status, decision.refused_by) == ("refused", "permission: the job does not allow prune")


def test_a_policy_does_not_scale_while_an_answer_is_out_and_goes_on_from_what_was_applied():
    log, one = Log(), judge(act(Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=0)))
    log.start()
    log.points([2.0] * 5)
    first, second = answers(run(one, log))
    assert (first.params["intent"], first.status) == ({"multiplier": 0.5, "hold": None, "revision": 1}, "pending")
    assert (second.status, second.refused_by.split(":")[0]) == ("refused", "pending")
    later = Log()
    later.records, later.offsets = [log.records[-1]], dict(log.offsets)
    later.add(RUNS, Ack(first.id, "r", "A", "applied", START, seq=9, step=4))
    later.points([2.0] * 2, seq=20, step=20)
    (third,) = answers(one.handle(later.records[1:], START + 10))
    assert third.params["intent"] == {"multiplier": 0.25, "hold": None, "revision": 2}


@pytest.mark.parametrize("status", ["refused", "expired", "failed"])
def test_an_intent_that_was_not_applied_changes_nothing(status):
    log, one = Log(), judge(act(Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=0)))
    log.start()
    log.points([2.0] * 3)
    (first,) = answers(run(one, log))
    log.add(RUNS, Ack(first.id, "r", "A", status, START, seq=9))
    one.handle(log.records[-1:], START + 10)
    assert one.attempts["A"].standing.intent == events.LrIntent()


def test_a_person_supersedes_what_is_pending():
    log, one = Log(), judge(act(Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=0)))
    log.start()
    log.points([2.0] * 3)
    log.add(CONTROL, Request("req", "r", "set-lr", "ann", START, {"value": 0.01}))
    out = run(one, log)
    scale, by_hand = answers(out)
    assert by_hand.params["intent"] == {"multiplier": 1.0, "hold": 0.01, "revision": 2}
    assert [(a.id, a.status) for a in answers(out, Ack)] == [(scale.id, "refused")]


@pytest.mark.parametrize(
    ("action", "params"), [("set-lr", {"value": -1}), ("set-lr", {}), ("scale-lr", {"factor": "x"}), ("fly", {})]
)
def test_a_request_that_makes_no_sense_is_refused(action, params):
    log = Log()
    log.start()
    log.add(CONTROL, Request("req", "r", action, "ann", START, params))
    (decision,) = answers(run(judge(), log))
    assert decision.status == "refused"
    assert decision.refused_by.startswith("scope")


def test_a_decision_without_an_answer_expires_and_is_said_so_once():
    log, one = Log(), judge()
    log.start()
    log.points([2.0] * 5)
    (decision,) = answers(run(one, log))
    assert not answers(one.handle([], decision.not_after), Ack)
    (ack,) = answers(one.handle([], decision.not_after + 6), Ack)
    assert (ack.id, ack.status, ack.by) == (decision.id, "expired", "gate")
    assert not one.handle([], decision.not_after + 60)


def test_the_end_of_an_attempt_refuses_what_is_pending():
    log, one = Log(), judge()
    log.start()
    log.points([2.0] * 5)
    log.add(RUNS, RunEvent("r", "A", "ended", START, seq=50, state="failed", ended_by="died"))
    out = run(one, log)
    assert [(a.status, a.reason) for a in answers(out, Ack)] == [("refused", "the attempt is over (failed)")]
    log.add(CONTROL, Request("req", "r", "checkpoint", "ann", START))
    (late,) = answers(one.handle(log.records[-1:], START + 10))
    assert (late.status, late.refused_by) == ("refused", "scope: the attempt is over (failed)")


def test_a_backlog_of_a_night_decides_nothing_and_says_one_line():
    log, one = Log(), judge()
    log.start()
    log.points([2.0] * 9, time=START - 30_000)
    out = run(one, log)
    assert not answers(out)
    log.add(METRICS, b"", after=11.0)
    log.points([2.0], seq=40, step=40)
    out = one.handle(log.records[-1:], START + 20)
    assert [(n.what, n.level) for n in answers(out, events.Notice)][:1] == [("backlog", "info")]
    (decision,) = answers(out)
    assert decision.trigger == "sdk:40"


def test_a_record_that_is_no_event_is_kept_aside_and_the_rest_goes_on():
    log = Log()
    log.start()
    log.add(METRICS, b"\xffnot json")
    log.points([2.0] * 5)
    out = run(judge(), log)
    assert [(m.topic, m.body) for m in out if m.topic == DEAD_LETTERS] == [(DEAD_LETTERS, b"\xffnot json")]
    assert len(answers(out)) == 1


def test_the_rate_limit_refuses_and_lets_the_condition_speak_again():
    log, one = (
        Log(),
        judge(act(Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=0), Patience(patience=6)), Gates(decisions_per_hour=1)),
    )
    log.start()
    log.points([2.0] * 3)
    (first,) = answers(run(one, log))
    log.add(RUNS, Ack(first.id, "r", "A", "applied", START, seq=9))
    log.points([2.0] * 4, seq=20, step=20)
    later = answers(one.handle(log.records[-2:], START + 10))
    assert {(d.policy, d.status, d.refused_by[:5]) for d in later} == {
        ("plateau", "refused", "limit"),
        ("patience", "refused", "limit"),
    }
    log.add(RUNS, RunEvent("r", "A", "note", START, seq=60), after=3700)
    log.points([2.0], seq=90, step=90, time=START + 3700)
    last = answers(one.handle(log.records[-2:], START + 3701))
    assert ("patience", "pending") in {(d.policy, d.status) for d in last}


def test_best_weights_are_ordered_before_the_first_point():
    log = Log()
    log.start()
    (order,) = answers(run(judge(act(Patience(patience=3, restore_best_weights=True))), log))
    assert (order.action, order.status, order.params["series"]) == ("keep-best", "pending", "val_loss")


def test_after_a_restore_steps_may_start_again():
    log = Log()
    log.start()
    log.points([3.0, 2.0, 2.5])
    log.add(RUNS, RunEvent("r", "A", "restored", START, seq=4, step=1))
    log.points([2.0, 2.0], seq=5, step=1)
    one = judge()
    assert not answers(run(one, log))
    assert one.attempts["A"].windows["val_loss"].not_advancing == 0


def test_steps_that_do_not_advance_are_counted_for_status_also_in_a_backlog():
    log = Log()
    log.start()
    log.points([3.0, 2.0, 2.5])
    log.points([2.0, 2.0], seq=4, step=1)
    one = judge()
    run(one, log)
    assert one.counters["steps_not_advancing"] == 2
    old = judge()
    old.handle(log.records, log.records[-1].time + 1e6)
    assert old.counters["steps_not_advancing"] == 2


def test_an_intent_is_inherited_only_by_an_attempt_that_names_its_parent():
    log, one = Log(), judge(act(Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=0)))
    log.start()
    log.points([2.0] * 3)
    (first,) = answers(run(one, log))
    log.add(RUNS, Ack(first.id, "r", "A", "applied", START, seq=9))
    log.start(attempt="B")
    log.start(attempt="C", parent="A")
    (inherited,) = answers(one.handle(log.records[-3:], START + 10))
    assert (inherited.attempt, inherited.action, inherited.status) == ("C", "scale-lr", "pending")
    assert inherited.params["intent"] == {"multiplier": 0.5, "hold": None, "revision": 1}


@pytest.mark.parametrize(
    ("said", "proposed", "stands"),
    [
        (LrIntent(0.5, None, 1), [], LrIntent(0.5, None, 1)),  # what the job took over from its own journal
        (LrIntent(0.25, None, 2), [], LrIntent(0.25, None, 2)),  # applied, and killed before it could say so
        (LrIntent(0.1, None, 0), ["scale-lr"], LrIntent(0.1, None, 0)),  # an older one: its journal found no room
        (LrIntent(-1.0, None, 9), ["scale-lr"], LrIntent()),  # no learning rate
        (None, ["scale-lr"], LrIntent()),
    ],
)
def test_what_a_job_took_over_itself_stands_without_a_decision(said, proposed, stands):
    log, one = Log(), judge(act(Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=0)))
    log.start()
    log.points([2.0] * 3)
    (first,) = answers(run(one, log))
    log.add(RUNS, Ack(first.id, "r", "A", "applied", START, seq=9))
    log.start(attempt="C", parent="A", lr=said)
    assert [d.action for d in answers(one.handle(log.records[-2:], START + 10))] == proposed
    assert one.attempts["C"].standing.intent == stands


def story(values):
    """Two attempts, interleaved points, events and requests: everything that can be a cut."""
    log = Log()
    log.start(run="a", attempt="A")
    log.start(run="b", attempt="B")
    for i, (name, value) in enumerate(itertools.product("AB", values)):
        log.points([value], seq=10 * i + 1, step=10 * i, attempt=name, run=name.lower())
        if i % 7 == 3:
            log.add(CONTROL, Request(f"q{i}", name.lower(), "scale-lr", "ann", START, {"factor": 0.5}))
        if i % 11 == 5:
            log.add(RUNS, RunEvent(name.lower(), name, "restored", START, seq=10 * i + 2, step=0))
    return log


RULES = act(
    Patience(patience=3, restore_best_weights=True), Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=1), Divergence()
)
VALUES = st.lists(st.sampled_from([1.0, 2.0, 2.0, 3.0, 50.0, math.nan, math.inf]), min_size=4, max_size=30)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.data())
def test_conclusions_do_not_depend_on_batches_nor_on_saving_and_reading_again(values, data):
    log = story(values)
    whole = answers(Judge(RULES, Gates()).handle(log.records, START + 10))
    one, got, at, saved = Judge(RULES, Gates()), [], 0, {}
    while at < len(log.records):
        n = data.draw(st.integers(1, 9))
        got += answers(one.handle(log.records[at : at + n], START + 10))
        at += n
        bodies, body = one.changes()
        saved |= bodies
        one.saved()
        if data.draw(st.booleans()):
            one = Judge(RULES, Gates())
            one.load(saved, body)
    assert [msgspec.json.encode(d) for d in got] == [msgspec.json.encode(d) for d in whole]


def test_a_lost_state_is_rebuilt_from_the_log_and_decides_nothing_twice():
    log, one = Log(), judge()
    log.start()
    log.points([2.0] * 5)
    first = answers(run(one, log))
    for decision in first:
        log.add(CONTROL, decision)
    assert one.handle(log.records[-1:], START + 10) == []
    again = answers(run(judge(), log))
    assert [d.id for d in again] == [d.id for d in first]


def test_a_configuration_with_numbers_beyond_64_bits_is_no_trouble():
    log = Log()
    log.start(tags={"seed": 2**70}, config={"hash": -(2**80)})
    log.points([2.0] * 5)
    log.add(CONTROL, Request("req", "r", "checkpoint", "ann", START, {"note": 2**90}))
    one = judge()
    run(one, log)
    bodies, body = one.changes()
    again = judge()
    again.load(bodies, body)
    assert again.attempts["A"].standing.record == one.attempts["A"].standing.record
    assert again.attempts["A"].standing.pending == one.attempts["A"].standing.pending


def test_a_step_beyond_64_bits_is_kept_aside_and_the_rest_goes_on():
    log = Log()
    log.start()
    log.points([2.0], step=2**63, seq=50)
    log.points([2.0] * 5)
    out = run(judge(), log)
    assert len([m for m in out if m.topic == DEAD_LETTERS]) == 1
    assert len(answers(out)) == 1


def test_a_request_that_fits_into_no_decision_is_kept_aside():
    log = Log()
    log.start()
    log.add(CONTROL, Request("big", "r", "prune", "ann", START, reason="x" * 250_000))
    log.add(CONTROL, Request("fits", "r", "prune", "ann", START, reason="x" * 60_000))
    out = run(judge(), log)
    assert [m.topic for m in out].count(DEAD_LETTERS) == 1
    assert [d.trigger for d in answers(out)] == ["fits"]
    assert all(len(m.body) <= events.MAX_BODY_BYTES for m in out)


def test_a_rebuilt_judge_lets_a_condition_speak_again_where_a_limit_had_refused_it():
    def story(one, log):
        log.add(RUNS, RunEvent("r", "A", "note", START, seq=60), after=RETRY_REFUSED_S)
        log.points([2.0], seq=90, step=90, time=START + RETRY_REFUSED_S)
        return [d.trigger for d in answers(one.handle(log.records[-2:], START + RETRY_REFUSED_S + 1))]

    limited = Gates(decisions_per_hour=0)
    log, one = Log(), judge(gates=limited)
    log.start()
    log.points([2.0] * 5)
    (refused,) = answers(run(one, log))
    assert refused.refused_by.startswith("limit")
    log.add(CONTROL, refused)
    again = judge(gates=limited, not_after_s=0.0)  # all is backlog to it: what was decided it knows from control alone
    again.handle(log.records, START + 10)
    again._not_after_s = 600.0
    assert story(again, log) == ["sdk:90"]
