"""Runs that fall silent, over the real judge: when it speaks, when it does not, and that only the log decides which."""

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.policies.quality_gate import QualityGate
from smarttuner.consumers.policies.stall import Stall
from smarttuner.consumers.rules import Rule
from smarttuner.core import events
from smarttuner.core.events import Ack, Decision, MetricChunk, Notice, Request, RunEvent, Series, Started
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record
from smarttuner.daemon.gates import Gates

START = 1_700_000_000.0
STALL = Stall(min_silence_s=60, factor=10)


class Log:
    """Records at times of their own (seconds after START), in one total order."""

    def __init__(self):
        self.records = []
        self.positions = {}

    def add(self, at, topic, event):
        offset = sum(one.topic == topic for one in self.records)
        self.records.append(Record(topic, 0, offset, "k", events.encode(event), START + at))

    def start(self, at=0.0, attempt="A", born=None, **said):
        said = {"monitor": "val_loss", "goal": "min", "allow": ["checkpoint", "restore", "prune"], **said}
        time = START + (at if born is None else born)
        self.add(at, RUNS, RunEvent("r" + attempt, attempt, "started", time, seq=0, started=Started(**said)))

    def point(self, at, attempt="A", born=None, value=1.0):
        n = self.positions[attempt] = self.positions.get(attempt, -1) + 1
        series = Series("val_loss", [n], [value], [START + (at if born is None else born)])
        self.add(at, METRICS, MetricChunk("r" + attempt, attempt, "sdk", n, [series]))

    def points(self, *times, attempt="A"):
        for at in times:
            self.point(at, attempt)

    def note(self, at, quiet_s, attempt="A", **more):
        details = {"quiet_s": quiet_s, "pid": 42, "host": "gpu7", "cpu": 0.0, **more}
        self.add(at, RUNS, RunEvent("r" + attempt, attempt, "note", START + at, details=details))

    def end(self, at, attempt="A", born=None, state="finished"):
        time = START + (at if born is None else born)
        self.add(at, RUNS, RunEvent("r" + attempt, attempt, "ended", time, seq=9000, state=state))


def judge(*policies, mode="act", **options):
    rules = [Rule(policy, None, mode) for policy in (policies or (STALL,))]
    return Judge(lambda record: rules, Gates(), **options)


def said(messages, kind=Decision):
    return [one for one in (events.decode(message.body) for message in messages) if isinstance(one, kind)]


def told(log, until, one=None, kind=Decision):
    """What the judge says of the log, and of the time that passes until then."""
    one = one or judge()
    last = log.records[-1].time
    moments = [*itertools.takewhile(lambda now: now < START + until, (last + 100.0 * n for n in range(1, 100))), START + until]
    return said([*one.handle(log.records, last), *(message for now in moments for message in one.handle([], now))], kind)


def test_a_run_that_nobody_watches_is_told_of_when_its_time_is_over_and_once():
    log = Log()
    log.points(0, 1, 2, 3)
    (alert,) = told(log, until=500)
    assert (alert.action, alert.status, alert.time, alert.trigger) == ("alert", "applied", START + 63, "sdk:3:1700000063.000")
    assert alert.reason == "no metric for 60 s; the longest gap before was 1 s; nobody watches its process"


def test_time_passes_with_the_records_of_other_runs():
    log = Log()
    log.points(0, 1, 2, 3)
    log.points(*range(4, 100, 5), attempt="B")
    (alert,) = said(judge().handle(log.records, START + 100))
    assert (alert.attempt, alert.time) == ("A", START + 63)


def test_the_own_rhythm_is_allowed():
    log = Log()
    log.points(*range(0, 300, 30))
    assert not told(log, until=270 + 299)
    assert len(told(log, until=270 + 301)) == 1


def test_the_end_of_a_silence_lets_the_next_one_be_told():
    log = Log()
    log.points(0, 1, 2, 3, 203, 204, 205)
    first, second = told(log, until=205 + 401)
    assert (first.trigger, second.trigger) == ("sdk:3:1700000063.000", "sdk:6:1700000605.000")
    assert first.id != second.id


@pytest.mark.parametrize("state", ["finished", "failed", "pruned", "lost"])
def test_a_run_that_has_ended_is_silent_by_right(state):
    log = Log()
    log.points(0, 1, 2, 3)
    log.end(10, state=state)
    assert not told(log, until=5000)


def test_nothing_is_told_before_there_is_a_rhythm():
    log = Log()
    log.point(0)
    assert not told(log, until=590)


def test_a_run_that_never_gives_a_metric_is_told_of_once_and_never_ended_for_it():
    log = Log()
    log.start()
    policy = Stall(min_silence_s=60, first_metric_s=900, then="prune")
    assert not told(log, until=899, one=judge(policy))
    (alert,) = told(log, until=5000, one=judge(policy))
    assert (alert.action, alert.status, alert.time) == ("alert", "applied", START + 900)
    assert alert.reason == "no metric for 15 min since it began; nobody watches its process"


def test_the_first_metric_ends_the_wait_for_it():
    log = Log()
    log.start()
    log.points(850)
    policy = Stall(min_silence_s=60, first_metric_s=900)
    assert not told(log, until=2500, one=judge(policy)), "ten times the 850 s that the first took are allowed"
    assert len(told(log, until=850 + 8501, one=judge(policy))) == 1


def test_a_start_in_a_backlog_is_not_waited_for():
    log = Log()
    log.start(born=-4000.0)
    assert not told(log, until=90_000, one=judge(Stall(first_metric_s=900)))


def test_a_prune_only_where_it_is_asked_for_and_may_act():
    log = Log()
    log.start()
    log.points(1, 2, 3, 4)
    (decision,) = told(log, until=100, one=judge(Stall(min_silence_s=60, then="prune")))
    assert (decision.action, decision.status) == ("prune", "pending")
    (decision,) = told(log, until=100, one=judge(Stall(min_silence_s=60, then="prune"), mode="observe"))
    assert (decision.action, decision.status) == ("prune", "would")


# -- jobs that somebody watches


def watched():
    log = Log()
    log.start(pid=42)
    log.points(1, 2, 3, 4)
    return log


def test_a_watched_job_is_told_of_when_who_watches_has_seen_it_all():
    log = watched()
    assert not told(log, until=500), "who watches may have been down"
    log.note(60, 55.0)
    log.note(80, 75.0, state="sleeping")
    log.note(99, 94.0)
    (alert,) = told(log, until=500)
    assert (alert.time, alert.trigger) == (START + 80, "sdk:3:1700000064.000")
    assert alert.reason.endswith("pid 42 on gpu7 is alive, sleeping, uses no CPU")
    assert alert.evidence["quiet_s"] == 75.0


def test_a_watched_job_that_never_gives_a_metric_is_told_of_with_what_its_process_does():
    log = Log()
    log.start(pid=42)
    policy = Stall(min_silence_s=60, first_metric_s=300)
    assert not told(log, until=5000, one=judge(policy)), "who watches may have been down"
    log.note(250, 250.0)
    log.note(310, 309.0, state="sleeping")
    (alert,) = told(log, until=5000, one=judge(policy))
    assert (alert.time, alert.trigger) == (START + 310, ":-1:1700000300.000")
    assert alert.reason == "no metric for 5.2 min since it began; pid 42 on gpu7 is alive, sleeping, uses no CPU"


def test_what_was_not_watched_is_no_silence():
    log = watched()
    log.note(5000, 40.0)  # a daemon that was down for more than an hour
    assert not told(log, until=5000)
    log.note(5030, 70.0)
    assert len(told(log, until=5030)) == 1


def test_watches_of_two_daemons_add_up_over_a_kill():
    log = watched()
    log.note(44, 40.0)
    log.note(90, 15.0)  # another one since 75
    assert not told(log, until=90)
    log.note(96, 21.0)
    assert len(told(log, until=96)) == 1


def test_a_process_that_is_stopped_is_no_stall_and_its_gap_is_not_learnt():
    log = watched()
    log.note(40, 36.0)
    log.note(50, 0.0, stopped="SIGSTOP")
    log.note(4000, 50.0)
    assert not told(log, until=4000)
    log.points(4010, 4011)
    one = judge()
    assert not told(log, until=4011, one=one)
    assert max(one.attempts["A"].listening.rhythm.gaps) == 1.0


@pytest.mark.parametrize("action", ["checkpoint", "restore"])
def test_a_job_that_saves_is_waited_for(action):
    log = watched()
    log.add(10, CONTROL, Request("req", "rA", action, "ann", START + 10))
    log.note(80, 75.0)
    one = judge()
    (order,) = told(log, until=80, one=one)
    log.add(81, RUNS, Ack(order.id, "rA", "A", "applied", START + 81, seq=50))
    log.note(120, 30.0)
    assert not said(one.handle(log.records[-2:], START + 120))
    log.note(145, 64.0)
    assert [d.action for d in said(one.handle(log.records[-1:], START + 145))] == ["alert"]


def test_an_unwatched_job_that_never_answers_is_told_of_when_its_order_is_over():
    log = Log()
    log.start()
    log.points(1, 2, 3, 4)
    log.add(10, CONTROL, Request("req", "rA", "checkpoint", "ann", START + 10))
    alerts = [d for d in told(log, until=2000) if d.action == "alert"]
    assert [d.time for d in alerts] == [START + 615]


def test_notes_of_other_things_and_of_ended_runs_change_nothing():
    log = watched()
    log.add(70, RUNS, RunEvent("rA", "A", "note", START + 70, text="a note"))
    log.end(71)
    log.note(200, 190.0)
    assert not told(log, until=200)


@pytest.mark.timeout(60)
def test_what_was_said_and_is_latched_no_more_is_not_said_again_of_the_same_silence():
    log, one = Log(), judge()
    log.points(0, 1, 2, 3)
    assert len(told(log, until=100, one=one)) == 1
    one.adopt(lambda record: [Rule(STALL, None, "observe")], Gates(), "val_loss", 600.0)  # another mode lets it speak again
    assert not said([message for at in range(100, 600, 50) for message in one.handle([], START + at)])


def test_an_alert_survives_lost_state_without_a_second_one():
    log = watched()
    log.note(80, 75.0)
    one = judge()
    out = one.handle(log.records, START + 80)
    (alert,) = said(out)
    again = judge()
    log.add(81, CONTROL, alert)
    log.note(100, 95.0)
    assert [d.id for d in said(again.handle(log.records, START + 100))] == [alert.id]


# -- a backlog


def test_a_backlog_of_a_night_tells_of_no_silence():
    log = Log()
    log.points(0, 1, 2, 3, 300, 301)
    log.start(301.5, attempt="B", pid=42)
    log.points(302, 303, 304, attempt="B")
    log.note(400, 90.0, attempt="B")
    one = judge()
    out = [*one.handle(log.records, START + 30_000), *one.handle([], START + 30_001), *one.handle([], START + 40_000)]
    assert not said(out)
    assert [n.what for n in said(out, Notice)] == ["backlog"]
    log.note(30_100, 90.0, attempt="B")
    assert [d.attempt for d in said(one.handle(log.records[-1:], START + 30_101))] == ["B"], "it is alive, and watched"


def test_a_silence_that_began_while_nobody_judged_is_told_of_only_while_it_is_fresh():
    log = Log()
    log.points(0, 1, 2, 3)
    late, in_time = judge(), judge()
    assert not said([*late.handle(log.records, START + 3), *late.handle([], START + 663.5)])
    assert len(said([*in_time.handle(log.records, START + 3), *in_time.handle([], START + 662.5)])) == 1


def test_five_hundred_ended_runs_and_a_live_one_between_them_give_one_line_and_nothing_else():
    log, old = Log(), -40_000.0
    wants = (Patience(patience=2, restore_best_weights=True), QualityGate(max=0.5, after=1), STALL)
    for n in range(500):
        name, at = f"E{n}", n * 0.02
        log.start(at, name, born=old)
        for k in range(6):
            log.point(at, name, born=old + k)
        log.end(at, name, born=at if n % 2 else old + 9, state="failed")  # a daemon tells of who died without a word
        if n % 10 == 0:
            log.point(at, "live", value=1.0 / (n + 1))
    log.points(*range(11, 31), attempt="live")
    one = judge(*wants)
    parts = [log.records[at : at + 37] for at in range(0, len(log.records), 37)]
    out = [message for part in parts for message in one.handle(part, part[-1].time)]
    out += one.handle([], START + 31)
    assert {d.attempt for d in said(out)} <= {"live"}
    backlog = [n for n in said(out, Notice) if n.attempt is None]
    assert [(n.what, n.level) for n in backlog] == [("backlog", "info")]
    assert backlog[0].text.startswith("3000 points of 500 attempts")
    assert not said(out, Ack)


def test_who_lives_at_the_end_of_a_backlog_gets_its_order_and_its_verdict():
    log = Log()
    log.start(0.0, born=-9000)
    for k in range(6):
        log.point(0.0, born=-8000 + k)
    one = judge(Patience(patience=3, restore_best_weights=True))
    assert not said(one.handle(log.records, START))
    log.point(20)
    assert [d.action for d in said(one.handle(log.records[-1:], START + 20))] == ["keep-best", "prune"]


def test_latches_are_armed_again_behind_a_backlog():
    log, one = Log(), judge(Patience(patience=2), mode="observe")
    log.points(0, 1, 2, 3)
    (first,) = said(one.handle(log.records, START + 3))
    log.point(4)
    assert not said(one.handle(log.records[-1:], START + 4))
    log.point(9000, born=5)
    log.point(9020)
    (second,) = said(one.handle(log.records[-2:], START + 9020))
    assert (first.trigger, second.trigger) == ("sdk:2", "sdk:6")


# -- the log alone decides


MOMENTS = st.lists(
    st.tuples(
        st.sampled_from(["A", "B", "W"]),
        st.sampled_from([0.5, 1.0, 1.0, 20.0, 70.0, 130.0, 700.0]),
        st.sampled_from(["point"] * 5 + ["note", "stop", "checkpoint", "restored", "end", "again"]),
    ),
    min_size=4,
    max_size=40,
)


def written(moments):
    log, at, heard = Log(), 0.0, {}
    log.start(0.0, "W", pid=42)
    for name, after, what in moments:
        at += after
        if what == "point":
            heard[name] = at
            log.point(at, name)
        elif what == "again" and log.positions.get(name, 0) > 1:
            log.positions[name] -= 2
            log.point(at, name)
            log.positions[name] += 1
        elif what == "note":
            log.note(at, max(0.0, at - heard.get(name, at)), name)
        elif what == "stop":
            log.note(at, 0.0, name, stopped="SIGSTOP")
        elif what == "checkpoint":
            log.add(at, CONTROL, Request(f"q{at}", "r" + name, "checkpoint", "ann", START + at))
        elif what == "restored":
            log.add(at, RUNS, RunEvent("r" + name, name, "restored", START + at, seq=int(at * 2) + 1, step=0))
        elif what == "end" and name == "B":
            log.end(at, name)
    return log, START + at + 2000.0


@given(moments=MOMENTS, cuts=st.sets(st.integers(0, 40)), ticks=st.booleans(), saves=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_same_log_gives_the_same_alerts_however_it_is_cut_saved_and_restored(moments, cuts, ticks, saves):
    log, until = written(moments)
    never = 1e9  # nothing is backlog: a replay
    whole = judge(Patience(patience=4), STALL, not_after_s=never)
    expected = said([*whole.handle(log.records, log.records[-1].time), *whole.handle([], until)])
    one, out = judge(Patience(patience=4), STALL, not_after_s=never), []
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(log.records)), len(log.records)]
    for start, stop in itertools.pairwise(edges):
        out += one.handle(log.records[start:stop], log.records[stop - 1].time)
        if ticks and stop < len(log.records):
            out += one.handle([], (log.records[stop - 1].time + log.records[stop].time) / 2)
        if saves:
            bodies, own = one.changes(list(one.attempts))
            other = judge(Patience(patience=4), STALL, not_after_s=never)
            other.load({name: body for name, body in bodies.items() if body is not None}, own)
            one = other
    out += one.handle([], until)
    assert said(out) == expected


def test_a_saved_attempt_of_before_this_release_is_read():
    one = judge()
    log = Log()
    log.points(0, 1, 2)
    one.handle(log.records, START + 2)
    bodies, own = one.changes()
    older = msgspec.msgpack.decode(bodies["A"])
    del older["listening"], older["greeting"]
    other = judge()
    other.load({"A": msgspec.msgpack.encode(older)}, own)
    assert not said(other.handle([], START + 500))
