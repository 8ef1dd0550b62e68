"""One process of the simulation: runs worlds undisturbed and killed, compares them, and prints a report as JSON.

python runner.py random SEEDS KILLS | lost-state SEEDS KILLS | lines SEEDS PART PARTS | planted NAMES SEED KILLS
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from killing import At, Line, Nth, Seen, Where, in_child
from planted import BUGS
from script import NOT_AFTER_S, script_of
from summary import Summary, differences, summary
from world import World

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LOOP = {
    "daemon": ("lane", "stores", "state", "gates"),
    "consumers": (
        "judge",
        "docket",
        "cuts",
        "switchboard",
        "groups",
        "backlog",
        "silences",
        "attempt",
        "answers",
        "candidates",
        "stretch",
        "metrics_store",
        "metric_files",
        "metric_partition",
        "points",
        "compaction",
        "parquet_files",
        "tenure",
        "file_names",
        "row_files",
        "runs_table",
        "decisions_table",
    ),
    "bus": ("local", "log_file", "member", "head", "groups", "database", "directory", "reserve", "tail"),
    "tests/simulation": ("world", "job"),
}
"""Every file of the loop: what lies between a record on the log and its effect on disk."""
EFFECTS = ("broken", "decided", "acks", "applied", "metrics", "runs", "decisions")
"""What a summary says of the world, without what the judge remembers of it."""
LONG_S = 900.0
"""Longer than a script: a judge that begins anew decides again on every point, and not only on what is no backlog."""
STATE_CHANGES = {"daemon": ("lane", "stores", "state"), "tests/simulation": ("job", "planted")}
STORE_CHANGES = {
    "consumers": ("metrics_store", "metric_partition", "row_files", "parquet_files", "tenure"),
    "tests/simulation": ("planted",),
}
"""Where bugs are planted: the kills that find them are near."""
KILLS_A_CHAIN = 12
MEMORY = "/dev/shm"
"""The files are real, and what a killed process wrote stays in them; only fsync costs nothing there."""


def paths(rooms: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The files of some rooms."""
    return frozenset(os.path.join(ROOT, room, f"{name}.py") for room, several in rooms.items() for name in several)


class Chains:
    """Chains of kills over the world of one seed, each from an empty directory to the end of its script."""

    def __init__(
        self,
        folder: str,
        seed: int,
        files: frozenset[str] = paths(LOOP),
        plant: Callable[[], None] | None = None,
        not_after_s: float = NOT_AFTER_S,
    ) -> None:
        self._folder, self._seed, self._files, self._plant = folder, seed, files, plant
        self._not_after_s = not_after_s
        script_of(seed)
        self.kills = 0
        self.chains = 0
        self.alike = lambda found: found
        self.hit: set[Line] = set()
        self.differences: list[str] = []
        self.undisturbed, self.seen = self._undisturbed()

    def _undisturbed(self) -> tuple[Summary, Seen]:
        folder = self._fresh()
        ended = in_child(lambda: World(folder, self._seed, self._not_after_s).run(), self._files, count=True)
        found = in_child(lambda: summary(folder, self._seed), self._files).result
        shutil.rmtree(folder)
        if self._plant is not None:  # the kills go where the bug is, and it is nowhere else
            ended = in_child(lambda: self._live(folder), self._files, count=True)
            shutil.rmtree(folder)
        return found, Seen(ended.lines or {})

    def _fresh(self) -> str:
        self.chains += 1
        return os.path.join(self._folder, f"{self._seed}-{self.chains}")

    def run(self, wheres: Iterator[Where], between: Callable[[str], None] = lambda folder: None) -> None:
        """Kills at one place after the other, each after a restart, until the world ends or `wheres` does; `between` is
        done to the directory while nobody lives there."""
        folder, killed = self._fresh(), []
        for where in wheres:
            if not in_child(lambda: self._live(folder), self._files, where).killed:
                break
            self.kills += 1
            killed.append(_said(where))
            if isinstance(where, At):
                self.hit.add(where.line)
            between(folder)
        else:
            in_child(lambda: self._live(folder), self._files)
        found = in_child(lambda: summary(folder, self._seed), self._files).result
        lines = differences(self.alike(self.undisturbed), self.alike(found))
        self.differences += [f"seed {self._seed}, killed at {killed}: {line}" for line in lines]
        if not lines:
            shutil.rmtree(folder)

    def _live(self, folder: str) -> None:
        if self._plant is not None:
            self._plant()
        World(folder, self._seed, self._not_after_s).run()


def _said(where: Where) -> str:
    if isinstance(where, At):
        return f"{os.path.relpath(where.line[0], ROOT)}:{where.line[1]} ({where.n})"
    return f"line {where.n}" if where else "-"


def at_random(chains: Chains, kills: int, dice: random.Random, between: Callable[[str], None] = lambda folder: None) -> None:
    """So many kills, spread evenly over the lines that an undisturbed world runs."""
    while chains.kills < kills and not chains.differences:
        share = max(2, 2 * chains.seen.total // KILLS_A_CHAIN)
        chains.run((Nth(dice.randint(1, share)) for _ in range(2 * KILLS_A_CHAIN)), between)


def near_a_bug(chains: Chains, kills: int, dice: random.Random) -> None:
    """Every other kill in the planted lines themselves, the rest around them, until the bug is found."""
    planted = [line for line in chains.seen.lines if line[0].endswith("planted.py")]

    def where() -> Where:
        line = dice.choice(planted) if planted and dice.random() < 0.5 else None
        if line is None:
            return Nth(dice.randint(1, max(2, 2 * chains.seen.total // KILLS_A_CHAIN)))
        return At(line, dice.randint(1, max(1, chains.seen.lines[line] // 4)))

    while chains.kills < kills and not chains.differences:
        chains.run(where() for _ in range(2 * KILLS_A_CHAIN))


def losing_state(chains: Chains, kills: int, dice: random.Random) -> None:
    """After every third kill state.db is gone, as if a disk had lost it; what is left of the judge is the log."""
    chains.alike = lambda found: {name: found[name] for name in EFFECTS}

    def lose(folder: str) -> None:
        if os.path.exists(folder) and dice.random() < 0.34:
            for name in os.listdir(folder):
                if name.startswith("state.db"):
                    os.unlink(os.path.join(folder, name))

    at_random(chains, kills, dice, lose)


def at_every_line(chains: Chains, lines: list[Line], dice: random.Random) -> None:
    """A kill at each of `lines` at least once: in one chain as many as it meets, the missed ones in the next."""
    missed = [line for line in chains.seen.lines if line in set(lines)]
    while missed and not chains.differences:
        chains.run(_wheres(chains.seen, missed, dice))
        missed = [line for line in missed if line not in chains.hit]


def _wheres(seen: Seen, lines: list[Line], dice: random.Random) -> Iterator[Where]:
    """The first is met for sure: the directory is empty, as it was for the undisturbed world."""
    for n, line in enumerate(lines):
        most = seen.lines[line] if n == 0 else seen.lines[line] // 10
        yield At(line, dice.randint(1, max(1, most)))


def main(command: str, *arguments: str) -> dict[str, Any]:
    """The report: kills, chains, differences, and what else the command found."""
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        if command in ("random", "lost-state"):
            kill, not_after_s = (at_random, NOT_AFTER_S) if command == "random" else (losing_state, LONG_S)
            several = [Chains(folder, int(seed), not_after_s=not_after_s) for seed in arguments[0].split(",")]
            for chains in several:
                kill(chains, int(arguments[1]), random.Random(int(arguments[1])))
            return _report(several)
        if command == "lines":
            seeds = [int(one) for one in arguments[0].split(",")]
            return _lines(folder, seeds, int(arguments[1]), int(arguments[2]))
        return {name: _hunt(folder, name, int(arguments[1]), int(arguments[2])) for name in arguments[0].split(",")}


def _hunt(folder: str, name: str, seed: int, kills: int) -> dict[str, Any]:
    near = STORE_CHANGES if name.startswith(("store", "table")) else STATE_CHANGES
    chains = Chains(os.path.join(folder, name), seed, paths(near), BUGS[name])
    near_a_bug(chains, kills, random.Random(1))
    return _report([chains])


def _lines(folder: str, seeds: list[int], part: int, parts: int) -> dict[str, Any]:
    """Every line of the loop that any of the seeds runs, each in the first seed that does; of them the given part."""
    several = [Chains(folder, seed) for seed in seeds]
    left: set[Line] = set()
    for chains in several:
        mine = [line for line in chains.seen.lines if line not in left]
        left |= set(mine)
        at_every_line(chains, [line for line in mine if hash_of(line) % parts == part], random.Random(part))
    report = _report(several)
    report["lines"] = sum(len(chains.hit) for chains in several)
    return report


def hash_of(line: Line) -> int:
    """Spreads lines over parts, the same in every process."""
    return line[1]


def _report(several: list[Chains]) -> dict[str, Any]:
    shown = Counter[str]()
    for chains in several:
        for one in chains.undisturbed["decided"]:
            shown[f"{one['action']} {one.get('status', 'pending')}"] += 1
            shown[(one.get("refused_by") or "").partition(":")[0]] += 1
        for name in ("acks", "notices", "dead_letters", "metrics", "runs"):
            shown[name] += len(chains.undisturbed[name])
    return {
        "kills": sum(chains.kills for chains in several),
        "chains": sum(chains.chains - 1 for chains in several),
        "differences": [line for chains in several for line in chains.differences],
        "broken": [line for chains in several for line in chains.undisturbed["broken"]],
        "shown": dict(shown),
        "total_lines": sum(chains.seen.total for chains in several),
        "distinct_lines": sum(len(chains.seen.lines) for chains in several),
    }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(main(*sys.argv[1:])))
