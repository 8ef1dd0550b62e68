"""What a run sees of its peers: just what stood in the log before its point, however the log was cut, saved and read again."""

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers import cohort
from smarttuner.consumers.docket import FORGET_S
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.rules import Rule
from smarttuner.core import events
from smarttuner.core.events import Decision, MetricChunk, RunEvent, Series, Started
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.core.rungs import RungMeasure, rung_of
from smarttuner.daemon.gates import Gates

START = 1_700_000_000.0


@dataclass(frozen=True)
class Witness:
    """Answers at each closed rung with all that it was shown."""

    name = "witness"
    version = 1

    def measures(self, subject):
        return [RungMeasure(subject.goal)]

    def screen(self, columns):
        mask = np.zeros(len(columns), np.bool_)
        if columns.peers is not None:
            mask[columns.peers.points] = True
        return mask

    def judge(self, seen):
        if seen.peers is None:
            return None
        peers = seen.peers
        shown = {
            "own": peers.own().tolist(),
            "rung": peers.rung.tolist(),
            "runs": dict(zip(peers.runs, peers.states, strict=True)),
            "last": peers.last[:, 0].tolist(),
            "at": peers.at()[:, 0].tolist(),
            "before": peers.at(peers.rung - 16)[:, 0].tolist(),
        }
        return seen.decide((self.name, 1), "checkpoint", "seen", evidence=shown)


def judge():
    return Judge(lambda record: [Rule(Witness(), None, "observe")], Gates())


class Log:
    """Records in one order, a millisecond apart."""

    def __init__(self):
        self.records, self.seq = [], {}

    def add(self, topic, event, after=0.001):
        time = (self.records[-1].time if self.records else START) + after
        self.records.append(Record(topic, 0, len(self.records), "k", events.encode(event), time))

    def start(self, run, goal="min", group="g"):
        said = Started(monitor="loss", goal=goal, allow=["prune"])
        self.add(RUNS, RunEvent(run, f"attempt-{run}", "started", START, seq=0, started=said, group=group))
        self.seq[run] = 1

    def points(self, run, steps, values, group="g"):
        columns = Series("loss", steps, values, [START] * len(steps))
        self.add(METRICS, MetricChunk(run, f"attempt-{run}", "sdk", self.seq[run], [columns], group=group))
        self.seq[run] += len(steps)

    def end(self, run, state="finished", group="g"):
        self.add(RUNS, RunEvent(run, f"attempt-{run}", "ended", START, seq=self.seq[run], state=state, group=group))
        self.seq[run] += 1


def decided(messages):
    return [event for event in (events.decode(m.body) for m in messages) if isinstance(event, Decision)]


def expected(log, sign):
    """What each closing point was to see, point by point from the records alone."""
    points, state, out = {}, {}, []
    for record in log.records:
        event = events.decode(record.body)
        if isinstance(event, RunEvent):
            state[event.run] = event.state or "running"
            points.setdefault(event.run, [])
            continue
        before = {run: list(known) for run, known in points.items()}
        for step, value in zip(event.series[0].steps, event.series[0].values, strict=True):
            mine = points[event.run]
            highest = max((rung_of(s) for s, _ in mine), default=None)
            rung = rung_of(step)
            if highest is not None and rung > highest:
                seen = {}
                for run, known in before.items():
                    last = max((rung_of(s) for s, _ in known), default=0) - 1
                    first = rung_of(known[0][0]) if known else 0
                    if run == event.run or last < first:
                        last = -1
                    if last != -1:
                        seen[run] = (
                            state[run],
                            last,
                            best(known, min(rung - 1, last), sign),
                            best(known, min(rung - 17, last), sign),
                        )
                out.append((event.run, step, rung - 1, best(mine, rung - 1, sign), seen))
            mine.append((step, float(value)))
    return out


def best(known, rung, sign):
    if rung < 0 or not known or rung < rung_of(known[0][0]):
        return math.nan
    return min((sign * v + 0.0 for s, v in known if rung_of(s) <= rung and math.isfinite(v)), default=math.inf)  # no -0.0


VALUE = st.one_of(st.floats(0, 9, width=16), st.just(math.nan))
CHUNK = st.tuples(st.sampled_from("abc"), st.lists(st.tuples(st.integers(1, 30), VALUE), min_size=1, max_size=20))


def story(chunks, goal):
    log, at = Log(), dict.fromkeys("abc", 0)
    for run in "abc":
        log.start(run, goal)
    for run, points in chunks:
        steps = (at[run] + np.cumsum([gap for gap, _ in points])).tolist()
        at[run] = steps[-1]
        log.points(run, steps, [value for _, value in points])
    return log


@settings(max_examples=60, deadline=None)
@given(st.lists(CHUNK, min_size=1, max_size=12), st.sampled_from(["min", "max"]))
def test_a_point_sees_of_its_peers_what_stood_in_the_log_before_it(chunks, goal):
    log = story(chunks, goal)
    said = {(d.run, d.step): d.evidence for d in decided(judge().handle(log.records, START + 10))}
    for run, step, rung, own, peers in expected(log, 1.0 if goal == "min" else -1.0):
        if peers or (run, step) in said:
            shown = said[run, step]
            assert shown["rung"] == [rung]
            np.testing.assert_equal([float(v) for v in shown["own"]], [own])
            np.testing.assert_equal(rows(shown), peers)


def rows(shown):
    """Run: (state, last rung, best until the own rung, best until half an octave before); a peer of which nothing was known is
    as good as none: whether it is listed depends on when its row was made."""
    listed = zip(shown["runs"].items(), shown["last"], shown["at"], shown["before"], strict=True)
    return {run: (state, last, float(at), float(before)) for (run, state), last, at, before in listed if last != -1}


@settings(max_examples=60, deadline=None)
@given(st.lists(CHUNK, min_size=1, max_size=12), st.data())
def test_what_is_seen_does_not_depend_on_batches_nor_on_saving_and_reading_again(chunks, data):
    log = story(chunks, "min")
    if data.draw(st.booleans()):
        log.end("a")
        log.points("b", [1000, 2000], [1.0, 1.0])
    whole = decided(judge().handle(log.records, START + 10))
    one, got, at, saved = judge(), [], 0, {}
    while at < len(log.records):
        n = data.draw(st.integers(1, 9))
        got += decided(one.handle(log.records[at : at + n], START + 10))
        at += n
        bodies, body = one.changes()
        saved |= bodies
        one.saved()
        if data.draw(st.booleans()):
            one = judge()
            one.load(saved, body)
    assert [told(d) for d in got] == [told(d) for d in whole]


def told(decision):
    return decision.id, decision.step, str(rows(decision.evidence))


def test_an_ended_peer_stays_with_its_state_and_its_curve():
    log = Log()
    for run in "ab":
        log.start(run)
    log.points("a", [1, 10, 100], [3.0, 2.0, 1.0])
    log.end("a", "pruned")
    log.points("b", [1, 10, 100], [3.0, 3.0, 3.0])
    one = judge()
    one.handle(log.records[:-1], START + 1)
    bodies, body = one.changes()
    again = judge()
    again.load(bodies, body)
    shown = decided(again.handle(log.records[-1:], START + 1))[-1].evidence
    assert shown["runs"] == {"a": "pruned"}
    assert shown["at"] == [2.0]


def test_other_groups_and_other_goals_are_nobodys_peers():
    log = Log()
    log.start("a", group="g")
    log.start("b", group="h")
    log.start("c", goal="max", group="g")
    log.start("d", group=None)
    for run, group in (("b", "h"), ("c", "g"), ("d", None), ("a", "g")):
        log.points(run, [1, 10, 100], [3.0, 2.0, 1.0], group)
    assert decided(judge().handle(log.records, START + 1)) == []


def test_an_ended_run_is_forgotten_after_a_day_but_not_while_its_group_goes_on():
    log = Log()
    for run in "ab":
        log.start(run)
        log.points(run, [1, 10, 100], [3.0, 2.0, 1.0])
    log.end("a")
    one = judge()
    one.handle(log.records, START + 1)
    one.handle([], START + 1.5 * FORGET_S)
    assert set(one.attempts) == {"attempt-a", "attempt-b"}
    log.end("b")
    one.handle(log.records[-1:], START + 1.6 * FORGET_S)
    bodies, body = one.changes()
    one = judge()
    one.load(bodies, body)
    one.handle([], START + 1.7 * FORGET_S)
    assert set(one.attempts) == {"attempt-a"}, "b ended in the first second; a was somebody's peer until then"
    one.handle([], START + 2.1 * FORGET_S)
    assert not one.attempts


def test_of_a_large_group_the_newest_are_peers(monkeypatch):
    monkeypatch.setattr(cohort, "MOST_PEERS", 3)
    log = Log()
    for run in "abcdef":
        log.start(run)
        log.points(run, [1, 10, 100], [3.0, 2.0, 1.0])
    log.points("a", [1000], [1.0])
    log.points("f", [1000], [1.0])
    said = {d.run: d.evidence["runs"] for d in decided(judge().handle(log.records, START + 1))}
    assert set(said["f"]) == {"d", "e"}
    assert msgspec.json.encode(said)


def test_a_run_that_was_resumed_is_one_peer_and_goes_on_where_it_was():
    log = Log()
    for run in "ab":
        log.start(run)
    log.points("a", [1, 10, 100], [3.0, 2.0, 1.0])
    log.end("a", "failed")
    said = Started(monitor="loss", goal="min", allow=["prune"])
    log.add(RUNS, RunEvent("a", "attempt-a2", "started", START, seq=0, started=said, group="g"))
    columns = Series("loss", [50, 100, 1000, 10_000], [5.0, 4.0, 0.5, 9.0], [START] * 4)
    log.add(METRICS, MetricChunk("a", "attempt-a2", "sdk", 1, [columns], group="g"))
    log.points("b", [1, 10, 100, 1000, 10_000], [3.0] * 5)
    shown = [d.evidence for d in decided(judge().handle(log.records, START + 10)) if d.run == "b"]
    assert [list(one["runs"].items()) for one in shown] == [[("a", "running")]] * 4
    assert [one["at"] for one in shown] == [[3.0], [2.0], [1.0], [0.5]]
