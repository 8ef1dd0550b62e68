"""Folds what was gathered into the windows and finds the points at which rules may speak.

Series that are judged alike are folded and screened in blocks, by array operations over series and points; few single points
one by one, and of these those that may matter in blocks; series that are alone, and those in which a point is repeated or
does not advance, each by itself. The results are the same.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..core.block import Block, Points
from ..core.rungs import NONE
from ..core.standing import FOREVER
from ..core.window import UNJUDGED, Columns, Figures, Ints, Window
from .attempt import Attempt
from .candidates import Candidates, Heap
from .cohort import Cohorts, Moments
from .rules import Rule
from .stretch import Gathered, Key, Lone

MOST_POINTS = 16_384
"""Of a block, and of a stretch: so they stay in the processor's caches."""
MOST_SERIES = 256
"""Of a stretch, for the same reason."""
MOST_PAIRS = 262_144
"""Points of a block times peers, of which no more than so many points a series are counted: all may close a rung early."""
EARLY_POINTS = 256


class Part(NamedTuple):
    """New points of one series: [start, start + size) of what was gathered."""

    attempt: Attempt
    series: str
    source: str
    window: Window
    start: int
    size: int

    def rules(self) -> Sequence[tuple[int, Rule]]:
        """The rules that judge it, with their numbers."""
        return self.attempt.judging[self.series].rules


class Screening:
    """Owned by the judge; `attempts` and `cohorts` are the docket's."""

    def __init__(self, attempts: Mapping[str, Attempt], cohorts: Cohorts, counters: Counter[str]) -> None:
        self._attempts, self._cohorts, self._counters = attempts, cohorts, counters

    def extend(self, window: Window, *points: Any) -> Columns | None:
        """Folds points into one window."""
        before = window.not_advancing
        columns = window.extend(*points)
        self._counters["steps_not_advancing"] += window.not_advancing - before
        return columns

    def candidates(self, gathered: Gathered) -> Heap:
        """Takes all in; what is to be judged."""
        heap: Heap = []
        self._counters["steps_not_advancing"] += 0  # it is told of from the first point on
        for name, series, _ in gathered.series:  # groups are entered in the order of the log
            self._cohorts.enter(self._attempts[name], series)
        alone: list[tuple[Part, Columns]] = []
        blocks = list(self._lone(gathered.lone, alone))
        if gathered.points is not None:
            blocks += self._together(gathered, gathered.points, alone)
        for block in blocks:
            block.close_rungs(self._cohorts)
        for part, columns in alone:
            self._push_alone(heap, part, columns)
        for block in blocks:
            block.push(heap, self._cohorts, self._attempts)
        return heap

    def _together(self, gathered: Gathered, points: Points, alone: list[tuple[Part, Columns]]) -> Iterator[_Folded]:
        """Takes the points of series in: in blocks, or where that cannot be `alone`."""
        edges = itertools.pairwise(gathered.starts)
        parts = [self._part(key, start, end - start) for key, (start, end) in zip(gathered.keys, edges, strict=True)]
        alike: list[Part] = []
        for part, is_alike in zip(parts, _alike(parts, points), strict=True):
            if is_alike:
                alike.append(part)
            else:
                one = points.at(slice(part.start, part.start + part.size))
                self._by_itself(part, one, alone)
        for some in self._in_blocks(alike):
            windows, sources = [part.window for part in some], [part.source for part in some]
            starts, sizes = np.array([part.start for part in some]), np.array([part.size for part in some])
            yield _Folded(some, Block(windows, sources, points, starts, sizes))

    def _by_itself(self, part: Part, points: Points, alone: list[tuple[Part, Columns]]) -> None:
        positions, *known, appended, orders = points
        columns = self.extend(part.window, part.source, positions, known, appended, orders)
        if columns is not None:
            self._cohorts.take(part.attempt, part.series, columns)
            alone.append((part, columns))

    def _part(self, key: Key, start: int, size: int) -> Part:
        name, series, source = key
        attempt = self._attempts[name]
        return Part(attempt, series, source, attempt.windows[series], start, size)

    def _lone(self, points: Sequence[Lone], alone: list[tuple[Part, Columns]]) -> Iterator[_Folded]:
        """Takes single points in; those that close a rung, or of which a rule may speak, are screened in blocks, or `alone`."""
        found: dict[tuple[str, int], list[tuple[Part, Lone, Figures]]] = {}
        for one in points:
            name, series, source = one.key
            attempt = self._attempts[name]
            _, screens, window, curve = attempt.judging[series]
            part = Part(attempt, series, source, window, 0, 1)
            if not window.takes_points:
                self._by_itself(part, _single(one), alone)
                continue
            before = window.not_advancing
            figures = window.take(source, one.position, one.step, one.value, one.time)
            if figures is None:
                self._counters["steps_not_advancing"] += window.not_advancing - before
                continue
            closes = curve is not None and figures[curve.key]["closed"] != NONE
            if closes or screens is None or any(screen.may_speak(figures, window.subject) for screen in screens):
                kind = (window.kind or f"{name}/{series}", self._cohorts.company(attempt, series).bit_length())
                found.setdefault(kind, []).append((part, one, figures))
        for some in found.values():
            if len(some) == 1:
                ((part, one, _),) = some
                seen = part.window.alone(part.source, one.position, one.appended, one.order)
                self._cohorts.take(part.attempt, part.series, seen)
                alone.append((part, seen))
                continue
            parts, places, figures_of = zip(*some, strict=True)
            columns = [np.array(column) for column in list(zip(*places, strict=True))[1:]]
            windows, sources = [part.window for part in parts], [part.source for part in parts]
            yield _Folded(parts, Block.taken(windows, sources, Points(*columns), figures_of))

    def _in_blocks(self, alike: Sequence[Part]) -> Iterator[Sequence[Part]]:
        """Of one kind, of sizes that differ by a factor of two at most, and so for the sizes of their groups."""
        found: dict[tuple[str, int, int], list[Part]] = {}
        for part in alike:
            company = self._cohorts.company(part.attempt, part.series)
            found.setdefault((part.window.kind, (part.size - 1).bit_length(), company.bit_length()), []).append(part)
        for (_, size, company), parts in found.items():
            points = 1 << size
            most = max(1, min(MOST_POINTS // points, MOST_PAIRS // (min(points, EARLY_POINTS) << company)))
            for first in range(0, len(parts), most):
                yield parts[first : first + most]

    def _push_alone(self, heap: Heap, part: Part, columns: Columns) -> None:
        peers = self._cohorts.peers(part.attempt, part.series, columns, self._attempts)
        seen = columns if peers is None else replace(columns, peers=peers)
        for number, rule in part.rules():
            Candidates(part.attempt, rule, seen, number).push(heap, len(heap))


class _Folded:
    """A block with the parts that it is made of. `who` are those that closed a rung, at `moments`."""

    def __init__(self, parts: Sequence[Part], block: Block) -> None:
        self._parts, self._block = parts, block
        self._who: list[tuple[Attempt, str]] = []
        self._moments: Moments | None = None
        self._columns: dict[int, Columns] = {}

    def close_rungs(self, cohorts: Cohorts) -> None:
        """The cohorts take in what was closed."""
        measure = self._parts[0].attempt.curve(self._parts[0].series)
        if measure is None:
            return
        closed: Ints = self._block.flat(self._block.figures[measure.key]["closed"])
        points = (closed != NONE).nonzero()[0]
        if not points.size:
            return
        rows, rungs, orders = self._block.rows(points), closed[points], self._block.flat(self._block.points.orders)[points]
        edges = [*np.diff(rows, prepend=-1).nonzero()[0].tolist(), len(rows)]
        for begin, end in itertools.pairwise(edges):
            attempt, series = self._parts[rows[begin]].attempt, self._parts[rows[begin]].series
            self._who.append((attempt, series))
            cohorts.fill(attempt, series, orders[begin:end], rungs[begin:end])
        self._moments = Moments(points, np.repeat(np.arange(len(edges) - 1), np.diff(edges)), rungs, orders)

    def push(self, heap: Heap, cohorts: Cohorts, attempts: Mapping[str, Attempt]) -> None:
        """The points at which rules may speak; afterwards the windows have taken the block in."""
        peers = None if self._moments is None else cohorts.crowd(self._who, self._moments, attempts)
        seen = self._block.screened(peers)
        for nth, (_, rule) in enumerate(self._parts[0].rules()):
            mask = rule.policy.screen(seen)
            points = np.arange(len(seen)) if mask is None else np.asarray(mask).nonzero()[0]
            rows = self._block.rows(points)
            for row in dict.fromkeys(rows.tolist()):
                part = self._parts[row]
                number, own = part.rules()[nth]
                if part.attempt.standing.latches.get(part.attempt.latch(own)) != FOREVER:
                    at = points[rows == row] - self._block.begin(row)
                    columns = self._shown(row, cohorts, attempts)
                    Candidates(part.attempt, own, columns, number, at.tolist()).push(heap, len(heap))
        self._block.keep()

    def _shown(self, row: int, cohorts: Cohorts, attempts: Mapping[str, Attempt]) -> Columns:
        """What a policy may look at that speaks of one series."""
        if row not in self._columns:
            part, columns = self._parts[row], self._block.columns(row)
            self._columns[row] = replace(columns, peers=cohorts.peers(part.attempt, part.series, columns, attempts))
        return self._columns[row]


def _single(one: Lone) -> Points:
    return Points(*(np.array([column]) for column in one[1:]))


def _alike(parts: Sequence[Part], points: Points) -> list[bool]:
    """Which can be folded with others of their kind: all their points advance, and they come once."""
    starts, positions, steps = np.array([part.start for part in parts]), points.positions, points.steps
    advances = np.ones(len(positions), np.bool_)
    advances[1:] = (positions[1:] > positions[:-1]) & (steps[1:] > steps[:-1])
    advances[starts] = positions[starts] > np.array([part.window.last.get(part.source, -1) for part in parts])
    advances[starts] &= steps[starts] > np.array([part.window.floor for part in parts])
    kinds, windows = Counter(part.window.kind for part in parts), Counter(id(part.window) for part in parts)
    each = zip(parts, np.logical_and.reduceat(advances, starts).tolist(), strict=True)
    kinds[UNJUDGED] = 0
    return [clean and kinds[part.window.kind] > 1 and windows[id(part.window)] == 1 for part, clean in each]
