"""A replay of whole curves concludes what a judge concludes that is fed the log record by record, and stops what it prunes."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies.divergence import Divergence
from smarttuner.consumers.policies.extrapolation import Extrapolation
from smarttuner.consumers.policies.halving import Halving
from smarttuner.consumers.policies.median import Median
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.policies.plateau import Plateau
from smarttuner.consumers.replay import Points, Replay, Trial
from smarttuner.consumers.rules import Rule
from smarttuner.consumers.score import best_cut, loss, score
from smarttuner.core import events
from smarttuner.core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.core.rungs import RungMeasure
from smarttuner.core.standing import PERMISSION
from smarttuner.daemon.gates import Gates

START = 1_700_000_000.0


@dataclass(frozen=True)
class Behind:
    """Prunes a run that is worse than at least `many` peers that go on or have finished."""

    many: int = 2
    name = "behind"
    version = 1

    def measures(self, subject):
        return [RungMeasure(subject.goal)]

    def _mask(self, peers):
        states = np.array([state != "pruned" for state in peers.states])[:, None] | peers.running
        return ((peers.at() < peers.own()) & states).sum(axis=0) >= self.many

    def screen(self, columns):
        mask = np.zeros(len(columns), np.bool_)
        if columns.peers is not None:
            mask[columns.peers.points] = self._mask(columns.peers)
        return mask

    def judge(self, seen):
        if seen.peers is None or not self._mask(seen.peers)[0]:
            return None
        peers = seen.peers
        shown = {"at": peers.at()[:, 0].tolist(), "runs": peers.runs, "running": peers.running[:, 0].tolist()}
        return seen.decide((self.name, 1), "prune", f"behind {self.many}", evidence=shown)


RULES = {
    "behind": [Rule(Behind(), None, "act")],
    "many": [
        Rule(Behind(3), None, "act"),
        Rule(Patience(patience=4), None, "act"),
        Rule(Plateau(patience=1, cooldown=1), None, "act"),
        Rule(Divergence(), None, "act"),
    ],
    # Compares with peers that have finished and not with those that failed: how a peer ended must be told.
    "shipped": [Rule(Extrapolation(doublings=0.5, after=1), None, "act"), Rule(Median(after=1, peers=2), None, "act")],
    "halving": [Rule(Halving(after=1), None, "act")],
}
POINT = st.tuples(st.sampled_from("abcd"), st.integers(1, 40), st.floats(0, 9, width=16))


def curves(points):
    """Each run's steps and values with the number of each point in the log."""
    at, found = dict.fromkeys("abcd", 0), {}
    for order, (run, gap, value) in enumerate(points, 1):
        at[run] += gap
        found.setdefault(run, []).append((at[run], value, order))
    return found


def replayed(rules, points, goal):
    trials = []
    for run, known in sorted(curves(points).items()):
        steps, values, orders = (np.array(column) for column in zip(*known, strict=True))
        times = START + orders * 1.0
        one = Points("sdk", np.arange(1, len(steps) + 1), steps, values.astype(float), times, times, orders)
        trials.append(Trial(run, f"attempt-{run}", "g", Started(monitor="loss", goal=goal), {"loss": one}))
    outcomes = Replay(lambda record: rules, Gates()).run(trials)
    return sorted(told(decision) for one in outcomes for decision in one.decisions)


def lived(rules, points, goal):
    """The same, record by record through the judge of a daemon whose jobs answer at once."""
    one, seq, over, said, got = Judge(lambda record: rules, Gates()), {}, set(), curves(points), []
    last = {run: known[-1][2] for run, known in said.items()}
    offset = 0

    def feed(topic, event, time):
        nonlocal offset
        offset += 1
        out = one.handle([Record(topic, 0, offset, "g", events.encode(event), time)], time)
        return [event for event in (events.decode(m.body) for m in out) if isinstance(event, Decision)]

    for run in sorted(said):
        allow = sorted(set(PERMISSION.values()))
        started = Started(monitor="loss", goal=goal, allow=allow)
        feed(RUNS, RunEvent(run, f"attempt-{run}", "started", START, seq=0, started=started, group="g"), START)
        seq[run] = 1
    at = dict.fromkeys("abcd", 0)
    for order, (run, gap, value) in enumerate(points, 1):
        at[run] += gap
        time = START + order
        if run not in over:
            series = Series("loss", [at[run]], [value], [time])
            new = feed(METRICS, MetricChunk(run, f"attempt-{run}", "sdk", seq[run], [series], group="g"), time)
            seq[run] += 1
            got += new
            for decision in new:
                if decision.action == "prune":
                    over.add(run)
                    feed(RUNS, RunEvent(run, f"attempt-{run}", "ended", time, seq=seq[run], state="pruned", group="g"), time)
                elif decision.status == "pending":
                    feed(RUNS, Ack(decision.id, run, f"attempt-{run}", "applied", time, group="g"), time)
        if order == last[run] and run not in over:
            feed(RUNS, RunEvent(run, f"attempt-{run}", "ended", time, seq=seq[run], state="finished", group="g"), time)
    return sorted(told(decision) for decision in got)


def told(decision):
    rows = ""
    if decision.policy == "behind":
        shown = decision.evidence
        known = zip(shown["runs"], (float(value) for value in shown["at"]), shown["running"], strict=True)
        rows = str(sorted(row for row in known if row[1] == row[1]))
    return decision.id, decision.run, decision.step, decision.action, decision.status, rows


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=80, deadline=None)
@given(st.lists(POINT, min_size=4, max_size=80), st.sampled_from(["min", "max"]))
@example([("a", 1, 1.0), ("b", 1, 1.0), ("c", 1, 0.0), ("c", 1, 0.0), ("d", 1, 1.0), ("c", 1, 0.0)], "max")
@example([("a", 1, 0.0), ("a", 1, 0.0), ("b", 1, 1.0), ("c", 1, 0.0), ("d", 1, 1.0), ("c", 1, 0.0), ("a", 1, 0.0)], "max")
def test_a_replay_decides_what_a_daemon_decides_record_by_record(name, points, goal):
    assert replayed(RULES[name], points, goal) == lived(RULES[name], points, goal)


def group(goal, **values):
    sign = 1.0 if goal == "min" else -1.0
    trials = []
    for at, (run, own) in enumerate(values.items()):
        n = len(own)
        orders = np.arange(n) * len(values) + at
        times = START + orders
        one = Points("t", np.arange(n), np.arange(1, n + 1), sign * np.array(own, float), times, times, orders)
        trials.append(Trial(run, run, "g", Started(monitor="value", goal=goal), {"value": one}))
    return trials


@pytest.mark.parametrize("goal", ["min", "max"])
def test_what_was_saved_and_what_it_cost(goal):
    rules = [Rule(Patience(patience=2), None, "act")]
    out = Replay(lambda record: rules, Gates(never_last_of_group=False)).run(
        group(goal, good=[5, 4, 4, 4, 1, 1], bad=[9, 9, 9, 9, 9, 9])
    )
    assert [(one.steps, one.steps_run) for one in out] == [(6, 4), (6, 3)]
    assert loss(out) == pytest.approx(3.0)
    assert best_cut(out)
    line = score("patience", {"g": out})
    assert line["compute_saved"] == pytest.approx(5 / 12)
    assert (line["runs"], line["groups"], line["decisions"]) == (2, 1, 2)
    assert line["groups_losing_more_than_1_percent"] == 1.0
    assert line["loss_of_best"]["p50"] == pytest.approx(3.0)


def test_the_last_run_of_a_group_is_not_ended_before_another_has_finished():
    rules = [Rule(Patience(patience=2), None, "act")]
    one, other = Replay(lambda record: rules, Gates()).run(group("min", one=[5.0] * 3, other=[5.0] * 9))
    assert (one.stopped is None, other.steps_run) == (False, 9), "one was pruned"
    one, other = Replay(lambda record: rules, Gates()).run(group("min", one=[5, 4, 3], other=[5.0] * 9))
    assert (one.stopped, other.steps_run) == (None, 3), "one goes on"
    one, other = Replay(lambda record: rules, Gates()).run(group("min", one=[5, 4, 3], other=[5, 4, 3, 2, 1, 1, 1, 1]))
    assert (one.stopped, other.steps_run) == (None, 7), "one has finished"


def test_a_group_without_one_number_counts_as_nothing_lost():
    nan = float("nan")
    out = Replay(lambda record: [], Gates()).run(group("min", a=[nan, nan]))
    line = score("none", {"g": out})
    assert (line["compute_saved"], line["best_trial_cut"], line["groups_losing_more_than_1_percent"]) == (0.0, 0.0, 0.0)
