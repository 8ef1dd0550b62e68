"""Policies that compare the runs of a group, over the real judge: the same answers however the log is cut, and sane ones for
few peers, late starters, ended peers, other intervals and the other direction.

curves.csv: three groups of five trials of the public MLCommons AlgoPerf result logs (mlcommons/submissions_algorithms,
Apache-2.0), as in benchmarks/decision_quality.py.
"""

import csv
import importlib.util
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies import REGISTRY
from smarttuner.consumers.policies.table import among
from smarttuner.consumers.rules import Rule
from smarttuner.core import events
from smarttuner.core.events import Decision, MetricChunk, RunEvent, Series, Started
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.daemon.gates import Gates

HERE = Path(__file__).parent
START = 1_700_000_000.0
PEERS = ("extrapolation", "median", "halving")


def benchmark():
    """benchmarks/decision_quality.py and its rules, written independently of the policies."""
    folder = HERE.parents[3] / "benchmarks"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("decision_quality", folder / "decision_quality.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["decision_quality"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))


STUDY = benchmark()


def curves():
    """The excerpt as the benchmark's groups, and whether more is better in each."""
    groups, up = {}, {}
    with (HERE / "curves.csv").open() as file:
        for row in csv.DictReader(file):
            group = groups.setdefault(row["group"], STUDY.Group(row["group"], "", ""))
            up[row["group"]] = row["higher_is_better"] == "True"
            trial = int(row["trial"][-1]) - 1
            while len(group.steps) <= trial:
                group.steps.append([])
                group.values.append([])
            group.steps[trial].append(int(row["step"]))
            group.values[trial].append(float(row["value"]) * (-1 if up[row["group"]] else 1))
    return [(group, up[name]) for name, group in groups.items()]


CURVES = curves()


@dataclass
class Log:
    """Records in one order, a millisecond apart, and a judge that takes them in as they come (`tell`) or later."""

    policy: object
    goal: str = "min"
    records: list = field(default_factory=list)
    seq: dict = field(default_factory=dict)

    def add(self, topic, event):
        self.records.append(Record(topic, 0, len(self.records), "k", events.encode(event), START + 0.001 * len(self.records)))

    def start(self, run, total_steps=None):
        told = Started(monitor="loss", goal=self.goal, allow=["prune"], total_steps=total_steps)
        self.add(RUNS, RunEvent(run, f"attempt-{run}", "started", START, seq=0, started=told, group="g"))
        self.seq[run] = 1

    def points(self, run, steps, values):
        columns = Series("loss", list(steps), list(values), [START] * len(steps))
        self.add(METRICS, MetricChunk(run, f"attempt-{run}", "sdk", self.seq[run], [columns], group="g"))
        self.seq[run] += len(steps)

    def end(self, run, state="finished"):
        self.add(RUNS, RunEvent(run, f"attempt-{run}", "ended", START, seq=self.seq[run], state=state, group="g"))
        self.seq[run] += 1

    def judge(self):
        return Judge(lambda record: [Rule(self.policy, None, "observe")], Gates())

    def decided(self):
        return said(self.judge().handle(self.records, START + 10))

    def pruned(self):
        """The first step at which each run would have been ended."""
        first = {}
        for one in self.decided():
            first.setdefault(one.run, one.step)
        return first


def said(messages):
    return [event for event in (events.decode(m.body) for m in messages) if isinstance(event, Decision)]


def play(group, up, policy):
    """Each point in the group's order through one judge; a run that is to be pruned ends there: {trial: step}."""
    log, ended, told = Log(policy, "max" if up else "min"), {}, 0
    judge = log.judge()
    for trial in range(len(group.steps)):
        log.start(f"{trial}")
    for trial, i in group.order:
        if trial in ended:
            continue
        value = group.values[trial][i]
        log.points(f"{trial}", [group.steps[trial][i]], [-value if up else value])
        fresh, told = log.records[told:], len(log.records)
        if said(judge.handle(fresh, START + 10)):
            ended[trial] = group.steps[trial][i]
            log.end(f"{trial}", "pruned")
        elif i == len(group.steps[trial]) - 1:
            log.end(f"{trial}")
    return ended


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize(("group", "up"), CURVES, ids=lambda one: getattr(one, "name", ""))
def test_the_judge_ends_real_curves_where_the_benchmark_says(group, up, name):
    rule = getattr(sys.modules["decision_rules"], name)()
    moments = {}

    def noted(seen):
        if stop := rule(seen):
            moments[seen.trial] = seen.step
        return stop

    STUDY.simulate(group.arrange(False, False), noted)
    assert play(group, up, REGISTRY.make(name)) == moments


def test_real_curves_are_ended_and_their_best_is_kept():
    saved = {}
    for group, up in CURVES:
        ended = play(group.arrange(False, False), up, REGISTRY.make("extrapolation"))
        finals = [min(values) for values in group.values]
        seen = [
            min(v for s, v in zip(*one, strict=True) if s <= ended.get(i, s))
            for i, one in enumerate(zip(group.steps, group.values))
        ]
        assert min(seen) - min(finals) <= 0.01 * abs(min(finals))
        saved[group.name] = 1 - sum(ended.get(i, own[-1]) for i, own in enumerate(group.steps)) / sum(o[-1] for o in group.steps)
    assert sorted(saved.values())[1] > 0.1, saved


CHUNK = st.tuples(
    st.sampled_from("abcd"), st.lists(st.tuples(st.integers(1, 9), st.floats(0, 9, width=16)), min_size=1, max_size=15)
)
OPTIONS = {
    "extrapolation": st.fixed_dictionaries({"doublings": st.sampled_from([0.2, 1.0]), "after": st.integers(0, 3)}),
    "median": st.fixed_dictionaries({"peers": st.integers(1, 2), "after": st.integers(0, 3)}),
    "halving": st.fixed_dictionaries({"factor": st.sampled_from([1.5, 2.0, 3.0]), "after": st.integers(0, 3)}),
}


@dataclass(frozen=True)
class Asked:
    """A policy that is asked at each point, whatever its screen says."""

    inner: object

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "inner"), name)

    def screen(self, columns):
        return None


@pytest.mark.parametrize("name", PEERS)
@settings(max_examples=25, deadline=None)
@given(st.data(), st.lists(CHUNK, min_size=2, max_size=14), st.sampled_from(["min", "max"]))
def test_answers_depend_on_neither_the_screen_nor_the_batches_nor_the_cuts(name, data, chunks, goal):
    policy = REGISTRY.make(name, **data.draw(OPTIONS[name]))
    logs = [Log(policy, goal), Log(Asked(policy), goal)]
    at = dict.fromkeys("abcd", 0)
    for log in logs:
        for run in "abcd":
            log.start(run)
    for run, points in chunks:
        steps = (at[run] + np.cumsum([gap for gap, _ in points])).tolist()
        at[run] = steps[-1]
        for log in logs:
            log.points(run, steps, [value for _, value in points])
    whole = [events.encode(one) for one in logs[0].decided()]
    assert [events.encode(one) for one in logs[1].decided()] == whole
    judge, got, cut = logs[0].judge(), [], 0
    while cut < len(logs[0].records):
        batch = data.draw(st.integers(1, 9))
        got += said(judge.handle(logs[0].records[cut : cut + batch], START + 10))
        cut += batch
        if data.draw(st.booleans()):
            saved = judge.changes(list(judge.attempts))
            judge = logs[0].judge()
            judge.load(*saved)
    assert [events.encode(one) for one in got] == whole


def falling(to, points=40, every=100):
    """A curve that falls from 9 to `to` along the logarithm of its steps, and those steps."""
    steps = [1 + every * i for i in range(points)]
    return steps, [9 - (9 - to) * math.log(s) / math.log(steps[-1]) for s in steps]


def flat(at, points=40, every=100):
    return [1 + every * i for i in range(points)], [at] * points


def together(log, curves):
    """All runs side by side, point by point."""
    for run in curves:
        log.start(run)
    everything = sorted((step, run, value) for run, known in curves.items() for step, value in zip(*known, strict=True))
    for step, run, value in everything:
        log.points(run, [step], [value if log.goal == "min" else -value])
    return log


@pytest.mark.parametrize("goal", ["min", "max"])
@pytest.mark.parametrize("name", PEERS)
def test_the_worst_run_is_told_and_the_best_is_not_whichever_way_is_better(name, goal):
    runs = {"a": falling(1), "b": falling(1.1), "c": falling(1.2), "d": flat(8.5)}
    first = together(Log(REGISTRY.make(name), goal), runs).pruned()
    assert "d" in first
    assert "a" not in first


@pytest.mark.parametrize("name", PEERS)
def test_a_run_alone_in_its_group_is_never_told(name):
    assert together(Log(REGISTRY.make(name)), {"a": flat(8)}).pruned() == {}


def test_two_runs_are_enough_for_extrapolation_and_halving_and_too_few_for_the_median():
    told = {name: together(Log(REGISTRY.make(name)), {"a": falling(1), "b": flat(8)}).pruned().keys() for name in PEERS}
    assert told == {"extrapolation": {"b"}, "halving": {"b"}, "median": set()}


@pytest.mark.parametrize("name", PEERS)
def test_a_late_starter_is_compared_at_its_own_step_and_not_with_what_the_others_have_by_now(name):
    log = Log(REGISTRY.make(name))
    for run in "abcd":
        log.start(run)
    for run in "abc":
        log.points(run, *falling(1))
        log.end(run)
    steps, values = falling(1)
    for step, value in zip(steps, values, strict=True):
        log.points("d", [step], [value - 0.01])
    assert "d" not in log.pruned()


@pytest.mark.parametrize("name", PEERS)
def test_other_logging_intervals_do_not_make_a_good_run_a_bad_one(name):
    runs = {"a": falling(1.0, 40, 100), "b": falling(1.1, 80, 50), "c": falling(1.2, 400, 10), "d": falling(0.9, 16, 250)}
    assert "d" not in together(Log(REGISTRY.make(name)), runs).pruned()


def test_a_run_is_extrapolated_against_peers_that_go_on_or_have_finished_and_not_against_dead_ones():
    policy, tall, short = REGISTRY.make("extrapolation"), [9, 8, 7, 6, 5, 4.5, 4, 3.8, 3.6, 3.4, 3.2, 3], [9, 8.5] + [8] * 10
    told = {
        state: policy.judge(among(short, {"a": tall}, policy, states={"a": state})) for state in ("finished", "pruned", "failed")
    }
    assert [state for state, one in told.items() if one is not None] == ["finished"]


def test_a_run_that_closes_in_fast_enough_is_let_go_on():
    steps = [1 + 100 * i for i in range(60)]
    ahead = [9 - 3 * min(1, i / 12) for i in range(60)]
    behind = [9 - 7 * min(1, i / 40) for i in range(60)]
    assert "b" not in together(Log(REGISTRY.make("extrapolation")), {"a": (steps, ahead), "b": (steps, behind)}).pruned()


def test_the_reason_says_how_far_away_from_whom():
    policy = REGISTRY.make("extrapolation")
    tall = [9, 8, 7, 6, 5, 4.5, 4, 3.8, 3.6, 3.4, 3.2, 3]
    slow = [9, 8.9, 8.8, 8.75, 8.7, 8.65, 8.6, 8.58, 8.56, 8.54, 8.52, 8.5]
    decision = policy.judge(among(slow, {"tall": tall, "other": tall}, policy))
    assert decision.reason.startswith("val_loss 8.52 ")
    assert "tall" in decision.reason
    assert decision.evidence["peer"] == "tall"


def test_nothing_is_compared_in_the_first_twentieth_of_what_a_job_said_it_takes():
    first = {}
    for total in (None, 60_000):
        log = Log(REGISTRY.make("extrapolation"))
        log.start("a", total)
        log.start("b", total)
        for one, other in zip(zip(*falling(1), strict=True), zip(*flat(8), strict=True), strict=True):
            log.points("a", [one[0]], [one[1]])
            log.points("b", [other[0]], [other[1]])
        first[total] = log.pruned()["b"]
    assert first[None] < 3000 <= first[60_000]


@pytest.mark.parametrize("name", PEERS)
def test_a_run_without_one_finite_number_breaks_nothing(name):
    runs = {"a": falling(1), "b": falling(1.1), "c": falling(1.2), "d": flat(float("nan"))}
    assert together(Log(REGISTRY.make(name)), runs).pruned().keys().isdisjoint({"a"})
