"""What happens to a world from outside, made from a seed alone: runs that start, log, are asked for things, and end."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from smarttuner.bus.partitions import key_of
from smarttuner.consumers.policies.divergence import Divergence
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.policies.plateau import Plateau
from smarttuner.consumers.policies.quality_gate import QualityGate
from smarttuner.consumers.policies.stall import Stall
from smarttuner.consumers.rules import Rule
from smarttuner.core.events import Event, MetricChunk, Request, RunEvent, Series, Started, encode, topic_key
from smarttuner.core.ports import CONTROL, METRICS, RUNS
from smarttuner.core.switches import ALL

BASE = 1_700_000_000.0
ROUND_S = 0.4
"""Shorter than a save is due, so that a kill takes more than one round out of memory."""
ROUNDS = 24
NOT_AFTER_S = 2.5
"""Six rounds; with the gate's grace of 5 s a silent job's decision expires within the script, at a moment of a round at
which nothing is appended."""
OFF = ("pause", "hold")
ALLOW = ["lr", "checkpoint", "restore", "prune"]


class Input(NamedTuple):
    """Something published from outside in a round; inputs of an attempt stop a round after it was pruned."""

    round: int
    topic: str
    key: str
    body: bytes
    attempt: str | None


@dataclass
class Source:
    """One attempt that logs, and the job behind it."""

    run: str
    attempt: str
    group: str | None
    kind: str
    first: int
    paused: range
    said: Started
    last: int | None = None
    step: int = 0
    position: int = 1
    sent: list[MetricChunk] = field(default_factory=list)

    @property
    def key(self) -> str:
        return topic_key(self.run, self.group)


class Script:
    """All inputs in order, and the sources whose jobs obey; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._random = random.Random(seed)
        self._hand = random.Random(seed * 13 + 19) if seed % 3 == 1 else None
        """Throws the switches, in every third script; the rest of it is the same with and without."""
        self.partitions = self._random.choice([1, 1, 2])
        self.sources = self._sources()
        self.inputs = [one for i in range(ROUNDS) for one in self._round(i)]

    def rules(self) -> list[Rule]:
        """Every shipped kind of policy at work, with options of this seed."""
        dice = random.Random(self.seed * 7 + 1)
        return [
            Rule(Patience(patience=dice.randint(4, 7), restore_best_weights=dice.random() < 0.7), None, "act"),
            Rule(Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=dice.randint(0, 2)), None, "act"),
            Rule(Divergence(points=2), None, "act"),
            Rule(QualityGate(max=2.5, after=dice.randint(2, 5)), None, "act"),
            Rule(Plateau(factor=0.1, patience=3), "train_loss", "observe"),
            Rule(QualityGate(min=0.5, after=3, gate="accuracy"), "accuracy", dice.choice(["act", "observe"])),
            Rule(Stall(min_silence_s=1.5 * ROUND_S, factor=1.0, then=dice.choice(["alert", "prune"])), None, "act"),
        ]

    def _sources(self) -> list[Source]:
        dice = self._random
        sources = []
        for n in range(dice.randint(2, 4)):
            again = n > 0 and dice.random() < 0.4
            before = sources[-1] if again else None
            first = before.first + dice.randint(3, 8) if before else dice.randint(0, 4)
            pause = dice.randrange(ROUNDS)
            said = Started(
                host="h", user="ann", monitor=dice.choice(["val_loss", "val_loss", None]), goal=dice.choice(["min", None]),
                mode="observe" if dice.random() < 0.1 else "act", allow=ALLOW if dice.random() < 0.9 else ["lr"],
                parent=before.attempt if before and dice.random() < 0.7 else None, tags={"n": n},
            )  # fmt: skip
            sources.append(
                Source(
                    before.run if before else f"run{n}",
                    f"A{n}",
                    before.group if before else dice.choice([None, "peers"]),
                    dice.choice(["stuck", "stuck", "improving", "diverging", "wild"]),
                    first,
                    range(pause, pause + dice.choice([0, 3, ROUNDS])),
                    said,
                    dice.choice([None, first + dice.randint(4, 15)]),
                )
            )
        return sources

    def _round(self, i: int) -> list[Input]:
        now, dice = BASE + i * ROUND_S, self._random
        queues = [self._of(one, i, now) for one in self.sources]
        strange = []
        if dice.random() < 0.25:
            topic = dice.choice([METRICS, RUNS, CONTROL])
            strange.append(Input(i, topic, "run0", dice.choice([b"\xff\x00", b"{}", b'{"v":9,"kind":"ack"}', b"[1,2"]), None))
        if dice.random() < 0.15:
            strange.append(_input(i, METRICS, "run0", RunEvent("run0", "A0", "note", now, text="on the wrong topic")))
        if dice.random() < 0.06:  # no column of 64 bits holds such a step
            huge = Series("val_loss", [1 << 80], [1.0], [now])
            strange.append(_input(i, METRICS, "run0", MetricChunk("run0", "A0", "odd", i, [huge])))
        pulse = _input(i, RUNS, "pulse", RunEvent("pulse", "P", "note", now, seq=i, text="a round"))
        return [pulse, *self._switched(i, now), *_interleaved([*queues, strange], dice)]

    def _switched(self, i: int, now: float) -> list[Input]:
        """What somebody switches in this round, in every partition. An end falls between two rounds, where nothing is
        appended."""
        if self._hand is None or self._hand.random() < 0.6:
            return []
        action = self._hand.choice(["pause", "pause", "resume", "hold", "hold", "unhold", "unhold"])
        run = self._hand.choice([one.run for one in self.sources])
        if action in ("pause", "resume") and self._hand.random() < 0.5:
            run = ALL
        params = {"for_s": (self._hand.randint(1, 8) + 0.5) * ROUND_S} if self._hand.random() < 0.4 and action in OFF else {}
        copies = [params] + [params | {"copied": True}] * (self.partitions - 1)
        return [
            _input(i, CONTROL, key_of(n, self.partitions), Request(f"s{i}", run, action, "ann", now, one, "a whim"))
            for n, one in enumerate(copies)
        ]

    def _of(self, one: Source, i: int, now: float) -> list[Input]:
        dice, found = self._random, []
        if i == one.first:
            event = RunEvent(one.run, one.attempt, "started", now, seq=0, group=one.group, started=one.said)
            return [Input(i, RUNS, one.key, encode(event), one.attempt)]
        if i < one.first or (one.last is not None and i > one.last + 1):
            return []
        found += [Input(i, METRICS, one.key, encode(chunk), one.attempt) for chunk in self._chunks(one, i, now)]
        if dice.random() < 0.2:
            found.append(_input(i, CONTROL, one.key, self._request(one, i, now)))
        if dice.random() < 0.06:
            event = RunEvent(one.run, one.attempt, "restored", now, seq=100 + i, group=one.group, step=max(0, one.step - 3))
            one.step = max(0, one.step - 3)
            found.append(Input(i, RUNS, one.key, encode(event), one.attempt))
        if i == one.last:
            event = RunEvent(
                one.run, one.attempt, "ended", now, seq=5000, group=one.group, state=dice.choice(["finished", "failed"])
            )
            found.append(Input(i, RUNS, one.key, encode(event), one.attempt))
        return found

    def _chunks(self, one: Source, i: int, now: float) -> list[MetricChunk]:
        dice, made = self._random, []
        for _ in range(dice.choice([0, 1, 1, 2])):
            n = dice.choice([1, 1, 2, 3, 8])
            late = -1000.0 if dice.random() < 0.03 else 0.0  # a night's backlog: warms, decides nothing
            made.append(self._chunk(one, n, now + late))
        if one.sent and dice.random() < 0.3:  # sent again, as it was or in other pieces
            made.append(dice.choice(one.sent[-3:]))
        one.sent += made
        return made

    def _chunk(self, one: Source, n: int, now: float) -> MetricChunk:
        dice = self._random
        steps = []
        for _ in range(n):
            one.step += 0 if dice.random() < 0.05 else 1  # a step that does not advance
            steps.append(one.step)
        times = [now - (n - k) * 1e-3 for k in range(n)]
        columns = [
            ("val_loss", [self._value(one, step) for step in steps]),
            ("train_loss", [1.0 / (1 + step) for step in steps]),
            ("accuracy", [dice.choice([0.2, 0.7]) for _ in steps]),
        ][: dice.randint(1, 3)]
        woven = dice.random() < 0.5  # as a spool weaves its series, or one behind the other
        series = [
            Series(name, steps, values, times, [k * len(columns) + c for k in range(n)] if woven else None)
            for c, (name, values) in enumerate(columns)
        ]
        chunk = MetricChunk(one.run, one.attempt, "sdk", one.position, series, group=one.group)
        one.position += n * len(columns) + (dice.random() < 0.1)  # a drop leaves a gap
        return chunk

    def _value(self, one: Source, step: int) -> float:
        dice = self._random
        if one.kind == "improving":
            return 3.0 / (1 + step) + dice.random() * 0.01
        if one.kind == "stuck" or (one.kind == "diverging" and step < 20):
            return dice.choice([2.0, 2.0, 2.1, 1.999])
        if one.kind == "diverging":
            return dice.choice([40.0, 50.0, math.nan])
        return dice.choice([1.0, 2.0, 3.0, 2.0, math.inf, -math.inf, math.nan])

    def _request(self, one: Source, i: int, now: float) -> Request:
        dice = self._random
        action, params = dice.choice(
            [("scale-lr", {"factor": 0.5}), ("set-lr", {"value": 0.01}), ("release-lr", {}), ("checkpoint", {}),
             ("restore", {"to": "best"}), ("set-lr", {"value": -1}), ("fly", {})]
        )  # fmt: skip
        if i > ROUNDS // 2 and dice.random() < 0.2:
            action, params = "prune", {}
        run = one.run if dice.random() < 0.9 else "nobody"
        return Request(f"q{i}-{one.attempt}-{dice.randrange(99)}", run, action, "ann", now, params, group=one.group)


def _interleaved(queues: list[list[Input]], dice: random.Random) -> list[Input]:
    """All of them, each queue in its own order: a source's positions rise, as its spool keeps them."""
    turns = [n for n, queue in enumerate(queues) for _ in queue]
    dice.shuffle(turns)
    fronts = [iter(queue) for queue in queues]
    return [next(fronts[n]) for n in turns]


def _input(i: int, topic: str, key: str, event: Event) -> Input:
    return Input(i, topic, key, encode(event), None)


@functools.cache
def script_of(seed: int) -> Script:
    """The script of a seed, written once and read by every fork."""
    return Script(seed)


def inputs_of(inputs: Sequence[Input], i: int) -> list[tuple[int, Input]]:
    """The inputs of round i with their numbers."""
    return [(n, one) for n, one in enumerate(inputs) if one.round == i]
