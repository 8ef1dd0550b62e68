"""A world of several daemons that share the judge's group, over the log and the state log in memory.

A daemon steps in a thread that can be stopped before any line of the loop. One that is never woken again was killed; one that
is woken later was paused: meanwhile others have its partitions, and it does not know.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
from job import Job
from script import BASE, NOT_AFTER_S, ROUND_S, ROUNDS, Script, Source, inputs_of
from smarttuner.bus.claims import Claims
from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.memory_state import MemoryStateLog
from smarttuner.consumers import judge as judge_module
from smarttuner.consumers.judge import Judge
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import CorruptData
from smarttuner.core.events import Claim, Decision, decode
from smarttuner.core.ports import CONTROL, Bus, Message, Record
from smarttuner.daemon import fleet as fleet_module
from smarttuner.daemon import lane as lane_module
from smarttuner.daemon.fleet import FleetStore
from smarttuner.daemon.gates import Gates
from smarttuner.daemon.lane import Lane

FILES = frozenset(os.path.realpath(module.__file__ or "") for module in (fleet_module, lane_module, judge_module))
PARTITIONS = 3
QUIET_SWEEPS = 5
MAX_SWEEPS = 500
LAG_ROUNDS = 4
"""What was written so many rounds ago may be compacted: a takeover takes less, as it takes less than an hour on Kafka."""


class FleetJob(Job):
    """A job that obeys only who owns its partition."""

    def __init__(self, folder: str, source: Source, bus: Bus, mark: Callable[[str], int | None], clock: ManualClock) -> None:
        super().__init__(folder, source, bus, mark, clock)
        self.claims = Claims()
        self.stale = 0

    def obeys(self, event: Any, record: Record) -> bool:
        if isinstance(event, Claim):
            self.claims.hear(event, record.partition)
        fresh = isinstance(event, Decision) and self.claims.allow(event, record.partition, record.time)
        self.stale += isinstance(event, Decision) and event.status == "pending" and not fresh
        return fresh


class Daemon:
    """One judge's lane; `stop_at` stops it before the n-th line that it runs from now on."""

    def __init__(self, name: str, world: FleetWorld) -> None:
        self.name, self._world = name, world
        rules = world.script.rules()
        self.judge = Judge(lambda record: rules, Gates(not_after_s=NOT_AFTER_S), not_after_s=NOT_AFTER_S)
        self.store = FleetStore(self.judge, world.state, world.log.connect, world.clock, name, PARTITIONS)
        self.lane = Lane(self.judge, world.log.connect, self.store, world.clock)
        self.stop_at = 0
        self.lines = 0
        self._stopped, self._go_on, self._done = threading.Event(), threading.Event(), threading.Event()
        self._worked = False

    def step(self) -> bool:
        """One turn, or a part of one; whether there was anything to do."""
        if not self.stop_at:
            return self._turn()
        self._done.clear()
        thread = threading.Thread(target=self._in_thread, daemon=True)
        thread.start()
        self._wait()
        if self.stopped:
            number = getattr(self.lane._bus, "number", None)
            if number is not None:
                self._world.log.groups.put_out("judge", number)
        return self._worked

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def wake(self) -> None:
        """Goes on behind the line at which it was stopped, to the end of its turn."""
        self._stopped.clear()
        self._go_on.set()
        self._wait()

    def _wait(self) -> None:
        while not (self._done.is_set() or self._stopped.is_set()):
            self._done.wait(0.0005)

    def _in_thread(self) -> None:
        sys.settrace(self._trace)
        try:
            self._worked = self._turn()
        finally:
            sys.settrace(None)
            self._done.set()

    def _turn(self) -> bool:
        try:
            return self.lane.step(self._world.clock.now())
        except Exception as error:
            self.lane.failed(error)
            return True

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.stop_at:
                self.stop_at = 0
                self._go_on.clear()
                self._stopped.set()
                self._go_on.wait()
        return self._trace


class FleetWorld:
    """`size` daemons from round 0 on. `trouble` is what befalls them, from a seed; None: nothing."""

    def __init__(self, folder: str, script: Script, size: int, trouble: random.Random | None = None) -> None:
        os.makedirs(folder)
        self.script, self.trouble = script, trouble
        self.clock = ManualClock(BASE)
        self.log = MemoryLog(self.clock, PARTITIONS)
        self.state = MemoryStateLog()
        self._bus = self.log.connect()
        self.jobs = [FleetJob(folder, one, self._bus, self.log.mark, self.clock) for one in script.sources]
        self._names = (f"daemon-{n}" for n in range(10_000))
        self.daemons = [Daemon(next(self._names), self) for _ in range(size)]
        self.asleep: list[Daemon] = []
        self._sizes: list[list[int]] = []
        self.killed = self.paused = self.rebalanced = 0

    def run(self) -> None:
        """The script from its beginning to its end."""
        for i in range(ROUNDS):
            self.clock.turn(max(0.0, BASE + i * ROUND_S - self.clock.now()))
            over = {job.source.attempt: job.pruned for job in self.jobs}
            for _, one in inputs_of(self.script.inputs, i):
                pruned = over.get(one.attempt or "")
                if pruned is None or one.round <= pruned + 1:
                    self._bus.publish([Message(one.topic, one.key, one.body)])
            self._befall()
            self._settle()
            for job in self.jobs:
                job.step(i)
            self._settle()

    def _befall(self) -> None:
        dice = self.trouble
        if dice is None:
            return
        for one in [one for one in self.asleep if dice.random() < 0.4]:
            self.asleep.remove(one)
            one.wake()
            self.daemons.append(one)
        if dice.random() < 0.3:
            self.log.rebalance("judge")
            self.rebalanced += 1
        if dice.random() < 0.2:
            number = dice.randrange(PARTITIONS)
            if len(self._sizes) > LAG_ROUNDS:
                self.state.compact(number, self._sizes[-LAG_ROUNDS][number])
                self._sizes.clear()  # they counted entries that may be gone
        self._sizes.append([len(self.state.read(number)) for number in range(PARTITIONS)])
        for one in self.daemons:
            if dice.random() < 0.5:
                one.stop_at = one.lines + dice.randint(1, dice.choice([40, 400, 3000]))
        if len(self.daemons) < 2 or dice.random() < 0.2:
            self.daemons.append(Daemon(next(self._names), self))

    def _settle(self) -> None:
        quiet = 0
        for _ in range(MAX_SWEEPS):
            worked = False
            for one in list(self.daemons):
                worked |= one.step()
                if one.stopped:
                    worked = True
                    self._take_out(one)
            quiet = 0 if worked else quiet + 1
            if quiet == QUIET_SWEEPS:
                return
        raise AssertionError(f"the daemons go round in circles: {[one.lane.last_error for one in self.daemons]}")

    def _take_out(self, one: Daemon) -> None:
        assert self.trouble is not None
        self.daemons.remove(one)
        if self.trouble.random() < 0.5:
            self.asleep.append(one)
            self.paused += 1
        else:
            self.killed += 1
        if not self.daemons:
            self.daemons.append(Daemon(next(self._names), self))

    def summary(self) -> dict[str, Any]:
        """What must be the same however many daemons there are, and whatever befell them."""
        valid, claims = {}, Claims()
        for record in self._control():
            try:
                event = decode(record.body)
            except CorruptData:
                continue
            if isinstance(event, Claim):
                claims.hear(event, record.partition)
            if isinstance(event, Decision) and claims.allow(event, record.partition, record.time):
                valid[event.id] = msgspec.to_builtins(msgspec.structs.replace(event, epoch=0))
        attempts = {}
        for daemon in self.daemons:
            for name, one in daemon.judge.attempts.items():
                assert name not in attempts, f"{name} is judged twice"
                attempts[name] = msgspec.msgpack.decode(one.dump())
        return _to_the_ms({
            "decided": dict(sorted(valid.items())),
            "applied": {job.source.attempt: list(job.lines.values()) for job in self.jobs},
            "attempts": dict(sorted(attempts.items())),
        })  # fmt: skip

    def _control(self) -> list[Record]:
        found: list[Record] = []
        for n in range(PARTITIONS):
            at: int = 0
            while True:
                records, positions = self._bus.follow_partitions(CONTROL, {n: at})
                if not records:
                    break
                found += records
                at = positions[n]
        return found


def _to_the_ms(tree: Any) -> Any:
    """Append times differ by a microsecond for each claim and each repetition that stands before them."""
    if isinstance(tree, float) and tree > BASE / 2:
        return round(tree, 3)
    if isinstance(tree, bytes):
        try:
            return _to_the_ms(msgspec.json.decode(tree))
        except msgspec.DecodeError:
            return tree
    if isinstance(tree, dict):
        return {key: _to_the_ms(value) for key, value in tree.items()}
    return [_to_the_ms(value) for value in tree] if isinstance(tree, list | tuple) else tree
