"""Several stores share one folder; any of them may be killed or paused before any line, and a paused one wakes up late.

One process runs at a time: a store's life is a fork that is stopped (SIGSTOP) or killed before lines that a seed picks, while
others take its partitions over, publish, stop too; then it is continued right there. After each turn the folder is read bare:
no row may be there twice, none that was there may be missing. In the end it holds what one undisturbed store makes of the log.

python fleet.py run SEEDS TURNS | planted NAMES SEEDS TURNS
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import stored
from killing import in_child
from runner import MEMORY, paths
from smarttuner.consumers import row_files
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.tenure import Directory, FolderTenure
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import Unavailable
from smarttuner.core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record

NOW = 1_700_000_000.0
TOPICS = (METRICS, RUNS, CONTROL)
PARTITIONS = 2
RECORDS = 400
"""Of the whole log."""
SEAL_ROWS, MAX_FILE_ROWS = 60, 4
LINES = 500
"""A pause or a kill comes before one of so many lines; a life has about three thousand."""
TRACED = paths({"consumers": ("tenure", "metrics_store", "metric_files", "metric_partition", "parquet_files", "row_files")})


def log_of(seed: int) -> list[Record]:
    """A log with two partitions: points (some sent again), runs that start and end, decisions and their answers."""
    dice = random.Random(seed)
    sent: list[list[MetricChunk]] = [[] for _ in range(PARTITIONS)]
    offsets: Counter[tuple[str, int]] = Counter()
    made: list[Record] = []
    for i in range(RECORDS):
        number = dice.randrange(PARTITIONS)
        run, attempt = f"r{number}", f"a{number}-{i // 40}"
        kind = dice.choice(["points"] * 6 + ["again", "start", "end", "decide", "answer"])
        topic, event = METRICS, None
        if kind == "points" or (kind == "again" and not sent[number]):
            n, at = dice.randint(1, 12), sum(one.points() for one in sent[number])
            event = MetricChunk(run, attempt, "sdk", at, [Series("x", list(range(n)), [i * 1.0] * n, [NOW] * n)])
            sent[number].append(event)
        elif kind == "again":
            event = dice.choice(sent[number][-4:])
        elif kind == "decide":
            topic, event = CONTROL, Decision(f"d{i}", run, attempt, "checkpoint", "p", "sdk:1", "why", NOW + i, NOW + 900)
        elif kind == "answer":
            topic, event = RUNS, Ack(f"d{max(0, i - dice.randint(1, 20))}", run, attempt, "applied", NOW + i)
        else:
            topic = RUNS
            event = (
                RunEvent(run, attempt, "started", NOW + i, 0, started=Started(host="h"))
                if kind == "start"
                else RunEvent(run, attempt, "ended", NOW + i, 9, state="finished")
            )
        made.append(Record(topic, number, offsets[topic, number], run, encode(event), NOW + i))
        offsets[topic, number] += 1 + (dice.random() < 0.2)
    return made


class Life:
    """One store from its start until it is told to go, dies, or its script ends."""

    def __init__(self, folder: str, log: list[Record], end: int, seed: int) -> None:
        self.folder, self.log, self.end, self.seed = folder, log, end, seed

    def __call__(self) -> None:
        """In a process of its own."""
        dice = random.Random(self.seed)
        sys.settrace(Interrupted(dice))
        store = opened(self.folder)
        mine = [n for n in range(PARTITIONS) if dice.random() < 0.7] or [0]
        for _ in range(3):
            try:
                self._fold(store, mine, dice)
                if dice.random() < 0.5:
                    store.revoke([(topic, n) for n in mine for topic in TOPICS])
                return
            except Unavailable:  # what the lane does; the bus may give it the same partitions again
                store.reload()
                if dice.random() < 0.5:
                    return

    def _fold(self, store: MetricsStore, mine: list[int], dice: random.Random) -> None:
        at = {(topic, n): store.position((topic, n)) or 0 for n in mine for topic in TOPICS}
        wanted = [one for one in self.log[: self.end] if one.offset >= at.get((one.topic, one.partition), 1 << 62)]
        while wanted:
            n = dice.randint(1, 40)
            store.handle(wanted[:n], NOW)
            del wanted[:n]
            if dice.random() < 0.4:
                store.flush(NOW)
        store.flush(NOW)


class Interrupted:
    """Stops or kills this process before a line now and then; continued, it goes on to the next such line."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._left = dice.randint(1, LINES)

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in TRACED else None

    def _line(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self._left -= 1
            if self._left == 0:
                self._left = self._dice.randint(1, 4 * LINES)
                os.kill(os.getpid(), signal.SIGKILL if self._dice.random() < 0.1 else signal.SIGSTOP)
        return self._line


def opened(folder: str, shared: bool = True) -> MetricsStore:
    row_files.MAX_ROWS = MAX_FILE_ROWS
    clock = ManualClock(NOW)
    return MetricsStore(folder, clock, seal_rows=SEAL_ROWS, place=Directory(folder, clock, shared=True) if shared else None)


class Fleet:
    """The folder of one seed, its living and its paused stores."""

    def __init__(self, folder: str, seed: int, plant: Callable[[], None] | None = None) -> None:
        self.folder, self.seed, self._plant = os.path.join(folder, str(seed)), seed, plant
        self.log = log_of(seed)
        self.dice = random.Random(seed * 7919)
        self.paused: list[int] = []
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        self._seen: set[Any] = set()

    def run(self, turns: int) -> None:
        """So many turns, then everybody to the end; what went wrong is in `broken`."""
        expected = in_child(lambda: undisturbed(self.folder + "-alone", self.log), frozenset()).result
        for turn in range(turns):
            if self.broken:
                break
            if self.paused and self.dice.random() < 0.6:
                n = len(self.paused)
                self._go_on(self.dice.choice([n - 1, max(0, n - 2), self.dice.randrange(n)]))
            else:
                at = len(self.log) * (turn + 1) // turns
                self._begin(max(1, at + self.dice.randint(-200, 100)))  # one knows less of the log than another
            self._look(f"turn {turn}")
        while self.paused and not self.broken:
            self._go_on(0)
            self._look("the end")
        for pid in self.paused:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if not self.broken:
            found = in_child(lambda: undisturbed(self.folder, self.log), frozenset()).result
            self.broken += [f"{name}: not as undisturbed" for name in expected if found[name] != expected[name]]

    def _begin(self, end: int) -> None:
        life = Life(self.folder, self.log, end, self.dice.randrange(1 << 30))
        pid = os.fork()
        if pid == 0:
            status = 3
            try:
                if self._plant:
                    self._plant()
                life()
                status = 0
            except BaseException:
                sys.settrace(None)
                with open(self.folder + ".error", "w", encoding="utf-8") as file:
                    file.write(traceback.format_exc())
            finally:
                os._exit(status)
        self.counts["lives"] += 1
        self.paused.append(pid)
        self._wait(pid)

    def _go_on(self, which: int) -> None:
        self.counts["continued"] += 1
        os.kill(self.paused[which], signal.SIGCONT)
        self._wait(self.paused[which])

    def _wait(self, pid: int) -> None:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            self.counts["pauses"] += 1
            return
        self.paused.remove(pid)
        if os.WIFSIGNALED(status):
            self.counts["kills"] += 1
        elif os.WEXITSTATUS(status):
            with open(self.folder + ".error", encoding="utf-8") as file:
                self.broken.append(file.read())

    def _look(self, when: str) -> None:
        rows = in_child(lambda: visible(self.folder), frozenset()).result
        twice = [row for row, count in Counter(rows).items() if count > 1]
        gone = self._seen - set(rows)
        if twice:
            self.broken.append(f"seed {self.seed}, {when}: {len(twice)} rows twice, the first is {twice[0]}")
        if gone:
            self.broken.append(f"seed {self.seed}, {when}: {len(gone)} rows that were there are missing, the first is {min(gone)}")
        self._seen = set(rows)


def visible(folder: str) -> list[Any]:
    """The keys of all rows, read bare."""
    found: list[Any] = []
    for name, key in (("metrics", ["attempt", "series", "source", "seq"]), ("runs", ["attempt"]), ("decisions", ["id"])):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and any(one.endswith(".parquet") and one[0] != "." for one in os.listdir(path)):
            frame = stored.pd.read_parquet(path)
            found += [(name, *map(str, row)) for row in frame[key].itertuples(index=False)]
    return found


def undisturbed(folder: str, log: list[Record]) -> dict[str, Any]:
    """What a store that holds all alone makes of the log, or makes of what others left in the folder."""
    os.makedirs(folder, exist_ok=True)
    store = opened(folder, shared=False)
    at = {(topic, n): store.position((topic, n)) or 0 for n in range(PARTITIONS) for topic in TOPICS}
    store.handle([one for one in log if one.offset >= at[one.topic, one.partition]], NOW)
    store.flush(NOW)
    frames = stored.frames(folder)
    left = [name for name in os.listdir(os.path.join(folder, ".writing")) if os.listdir(os.path.join(folder, ".writing", name))]
    return {"left": left, **{name: stored.rows(frame) for name, frame in frames.items()}}


# -- bugs to be found ----------------------------------------------------------------------------------------------------


def fence_taken_away() -> None:
    """Who takes over leaves the folders of the others."""
    FolderTenure._sweep = lambda self: None


def folder_made_again() -> None:
    """A holder whose folder is gone makes it again."""
    whole = FolderTenure._hidden

    def hidden(self: FolderTenure, path: str) -> str:
        os.makedirs(self._mine, exist_ok=True)
        return whole(self, path)

    FolderTenure._hidden = hidden


BUGS = {one.__name__: one for one in (fence_taken_away, folder_made_again)}


def main(command: str, *arguments: str) -> Any:
    with tempfile.TemporaryDirectory(prefix="fleet-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        if command == "run":
            return report([one_fleet(folder, int(seed), int(arguments[1])) for seed in arguments[0].split(",")])
        found = {}
        for name in arguments[0].split(","):
            found[name] = []
            for seed in map(int, arguments[1].split(",")):
                found[name] = one_fleet(os.path.join(folder, name), seed, int(arguments[2]), BUGS[name]).broken
                if found[name]:
                    break
        return found


def one_fleet(folder: str, seed: int, turns: int, plant: Callable[[], None] | None = None) -> Fleet:
    os.makedirs(folder, exist_ok=True)
    fleet = Fleet(folder, seed, plant)
    fleet.run(turns)
    return fleet


def report(fleets: list[Fleet]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for one in fleets:
        counts.update(one.counts)
    return {"broken": [line for one in fleets for line in one.broken], **counts}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(main(*sys.argv[1:])))
