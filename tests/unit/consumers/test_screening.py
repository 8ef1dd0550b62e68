"""Many runs judged in blocks conclude, and remember, what runs do whose records are judged one by one."""

import math
import random
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers import early_stop_controller
from smarttuner.consumers.condition_text import composite
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.moments import moment, moments_mask, peer_measures
from smarttuner.consumers.policies import REGISTRY
from smarttuner.consumers.rules import Rule
from smarttuner.core.events import MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.daemon.gates import Gates

START = 1_700_000_000.0
RUNS_NUMBER = 8


@dataclass(frozen=True)
class Behind:
    """Speaks at some of the moments, by all that is seen of peers, and is never silenced."""

    name = "behind"
    version = 1

    def measures(self, subject):
        return peer_measures(subject)

    def screen(self, columns):
        return moments_mask(columns, 0, self._holds)

    def judge(self, seen):
        peers = moment(seen, 0)
        if peers is None or not self._holds(peers)[0]:
            return None
        return seen.decide((self.name, 1), "checkpoint", "behind")

    def _holds(self, peers):
        before = peers.rung - 16
        worse = (peers.at() < peers.own()) & (peers.running | peers.finished)
        fell = np.nan_to_num(peers.own(before)) > np.nan_to_num(peers.at(before[None])).max(axis=0, initial=0.0)
        return worse.any(axis=0) & (((peers.last + 1).sum(axis=0) % 3 > 0) | fell)


class OfOnesOwn:
    """A measure that only folds columns."""

    key = "own()"

    def __init__(self):
        self.seen = 0

    def fold(self, steps, values):
        seen = np.arange(self.seen + 1, self.seen + 1 + len(values))
        self.seen = int(seen[-1])
        return {"seen": seen}

    def new_segment(self):
        self.seen = 0

    def dump(self):
        return {"seen": self.seen}

    def load(self, state):
        self.seen = state["seen"]


@dataclass(frozen=True)
class Own:
    """Speaks at each fifth evaluation."""

    name = "own"
    version = 1

    def measures(self, subject):
        return [OfOnesOwn()]

    def screen(self, columns):
        return columns.figures["own()"]["seen"] % 5 == 0

    def judge(self, seen):
        due = seen.figures["own()"]["seen"] % 5 == 0
        return seen.decide((self.name, 1), "checkpoint", "a fifth") if due else None


RULES = [
    *early_stop_controller.rules({}, "act"),
    Rule(REGISTRY.make("extrapolation", doublings=0.5, after=3), "acc", "observe"),
    Rule(REGISTRY.make("median", peers=1, after=3), None, "observe"),
    Rule(REGISTRY.make("plateau", factor=0.5, patience=2, cooldown=1), None, "act"),
    Rule(composite("mine", "patience(patience=2) & ~median(peers=1, after=2)"), None, "act"),
    Rule(Behind(), None, "observe"),
    Rule(Own(), "acc", "observe"),
]


class Log:
    """Runs in groups of three, of the last two of which more is better. They log much alike; now and then a record comes twice,
    a step does not advance, a value is none, one restores or ends."""

    def __init__(self, seed):
        self.random, self.records = random.Random(seed), []
        self.seq, self.step = [1] * RUNS_NUMBER, [0] * RUNS_NUMBER
        for run in range(RUNS_NUMBER):
            said = Started(monitor="loss", goal="max" if run > 5 else "min", allow=["prune", "lr"])
            self.event(run, "started", seq=0, started=said)

    def event(self, run, what, **more):
        event = RunEvent(f"r{run}", f"a{run}", what, START, group=f"g{run // 3}", **{"seq": self.seq[run], **more})
        self.add(RUNS, event)
        self.seq[run] += 1

    def add(self, topic, event):
        self.records.append(Record(topic, 0, len(self.records), "k", encode(event), START + 0.001 * len(self.records)))

    def round(self, size):
        """A chunk of each run, of `size` points or one more."""
        for run in range(RUNS_NUMBER):
            chance = self.random.random()
            if chance < 0.02:
                self.event(run, "restored", step=self.step[run] // 2)
                self.step[run] //= 2
            elif chance < 0.025:
                self.event(run, "ended", state="finished")
            self.chunk(run, size + (chance > 0.9), more=chance > 0.7, twice=0.5 < chance < 0.53)

    def chunk(self, run, n, more, twice):
        steps = [self._advanced(run) for _ in range(n)]
        values = [self._value(step) for step in steps]
        series = [Series("loss", steps, values, [START] * n, list(range(0, 2 * n, 2)))]
        if more:
            series.append(Series("acc", steps, values, [START] * n, list(range(1, 2 * n, 2))))
        event = MetricChunk(f"r{run}", f"a{run}", "sdk", self.seq[run], series, f"g{run // 3}")
        self.seq[run] += 2 * n
        for _ in range(1 + twice):
            self.add(METRICS, event)

    def _advanced(self, run):
        self.step[run] += self.random.choice([1, 1, 2, 3]) if self.random.random() < 0.99 else self.random.choice([0, -1, 40])
        return self.step[run]

    def _value(self, step):
        if self.random.random() < 0.02:
            return self.random.choice([math.nan, math.inf, 50.0, 0.0, -0.0])
        return 3.0 / (abs(step) + 1.0) ** 0.3 * self.random.uniform(0.9, 1.1)


def judged(records, batches):
    """The answers, and what is remembered in the end."""
    judge, answers, at = Judge(lambda record: RULES, Gates()), [], 0
    for n in batches:
        answers += [message.body for message in judge.handle(records[at : at + n], START + 10)]
        at += n
    bodies, own = judge.changes(sorted(judge.attempts))
    return answers, bodies, own


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 14), min_size=1, max_size=8), st.lists(st.integers(1, 60), min_size=20))
def test_judging_in_blocks_concludes_and_remembers_what_judging_one_by_one_does(seed, sizes, batches):
    log = Log(seed)
    for size in sizes:
        log.round(size)
    alone = judged(log.records, [1] * len(log.records))
    assert judged(log.records, [len(log.records)]) == alone
    assert judged(log.records, [*batches, len(log.records)]) == alone
