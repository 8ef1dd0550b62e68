"""A world: one data directory with a real log, the daemon's lanes over it, and the jobs. It goes on where its files say.

Rounds make the order of the log the same after any kill: in round i the clock stands still, what the script holds for the
round is published with marks, the lanes step until nothing is left, the jobs obey, the lanes step again. After a kill the
marks say which round it was; whatever is done again must change nothing.
"""

from __future__ import annotations

import os

from job import Job
from script import BASE, NOT_AFTER_S, ROUND_S, ROUNDS, Input, inputs_of, script_of
from smarttuner.bus.local import LocalLog
from smarttuner.bus.retention import MIB, Limits, Retention
from smarttuner.consumers import backlog, row_files
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import ManualClock
from smarttuner.core.ports import Message
from smarttuner.daemon.gates import Gates
from smarttuner.daemon.lane import Lane
from smarttuner.daemon.state import State
from smarttuner.daemon.stores import FilesStore, JudgeStore

LIMITS = Retention(Limits(8 * MIB, 1e6, 8 * MIB), Limits(8 * MIB, 1e6, 8 * MIB), reserve_bytes=1 << 16)
SEAL_ROWS = 60
"""So few that files are sealed and compacted within a script."""
MAX_FILE_ROWS = 4
"""So few that runs/ and decisions/ are several files."""
BACKLOG_REST_S = 1.0
"""So short that a backlog ends within a script."""
MAX_STEPS = 2000
"""Of one settling: more means that the lanes go round in circles."""


class Stuck(Exception):
    """The lanes do not come to rest."""


class World:
    """Opens everything in `folder`; one process at a time."""

    def __init__(self, folder: str, seed: int, not_after_s: float = NOT_AFTER_S) -> None:
        self.script = script_of(seed)
        self.clock = ManualClock(BASE)
        self.log = LocalLog(folder, self.clock, self.script.partitions, LIMITS, housekeeping=False)
        self.state = State(os.path.join(folder, "state.db"), self.clock)
        rules = self.script.rules()
        self.judge = Judge(lambda record: rules, Gates(not_after_s=not_after_s), not_after_s=not_after_s)
        self.bus = self.log.connect()
        self.jobs = [Job(folder, one, self.bus, self.log.mark, self.clock) for one in self.script.sources]
        row_files.MAX_ROWS = MAX_FILE_ROWS
        backlog.REST_S = BACKLOG_REST_S
        store = MetricsStore(folder, self.clock, seal_rows=SEAL_ROWS)
        self.lanes = [self._lane(self.judge, JudgeStore(self.judge, self.state, self.clock)), self._lane(store, FilesStore(store))]

    def _lane(self, consumer, store) -> Lane:
        return Lane(consumer, self.log.connect, store, self.clock)

    def run(self) -> None:
        """From wherever it is to the end of the script, then a clean stop."""
        done = self.log.mark("world") or 0
        first = self.script.inputs[done - 1].round if done else 0
        for i in range(first, ROUNDS):
            self._turn_to(i)
            self._publish(i, done)
            self._settle()
            for job in self.jobs:
                job.step(i)
            self._settle()
        for lane in self.lanes:
            lane.drain()
        self.state.close()
        self.log.close()

    def _turn_to(self, i: int) -> None:
        self.clock.turn(max(0.0, BASE + i * ROUND_S - self.clock.now()))

    def _publish(self, i: int, done: int) -> None:
        over = {job.source.attempt: job.pruned for job in self.jobs}
        waiting: list[Message] = []
        for number, one in inputs_of(self.script.inputs, i):
            if number >= done and not self._too_late(one, over.get(one.attempt or "")):
                waiting.append(Message(one.topic, one.key, one.body, mark=("world", number + 1)))
            if len(waiting) == 2:
                self.bus.publish(waiting)
                waiting = []
        self.bus.publish(waiting)

    @staticmethod
    def _too_late(one: Input, pruned: int | None) -> bool:
        """A pruned job still logs for a round, then it is gone."""
        return pruned is not None and one.round > pruned + 1

    def _settle(self) -> None:
        for _ in range(MAX_STEPS):
            if not sum(self._step(lane) for lane in self.lanes):  # every one of them, also behind one that worked
                return
        raise Stuck([f"{lane.name}: {lane.last_error}" for lane in self.lanes])

    def _step(self, lane: Lane) -> bool:
        """What Lane.run does in a turn, without its waiting."""
        try:
            return lane.step(self.clock.now())
        except Exception as error:
            lane.failed(error)
            return True
