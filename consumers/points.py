"""Points on their way into Parquet: plain columns in memory, cut and sorted into row groups.

A point costs a few machine words here; run, attempt, series and source are one number until a row group is written.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..core.events import MetricChunk, Series
from .arrow_columns import numbers, texts, values_of
from .parquet_files import METRICS_SCHEMA

Ints = NDArray[np.int64]
SMALL_GROUP, LARGE_GROUP = 5_000, 50_000
"""Rows of a row group: series shorter than the first share one, longer than the second are cut."""
_EARLIEST_S, _LATEST_S = -62_135_596_800.0, 253_402_300_799.0  # the years 1 and 9999, which every reader can show


class Label(NamedTuple):
    """Whose points they are. Labels sort as the rows of a compacted file do."""

    run: str
    series: str
    attempt: str
    source: str


@dataclass(frozen=True)
class Block:
    """Rows as columns of equal length n; `label` are positions in `labels`, `time` is in µs since 1970."""

    labels: Sequence[Label]
    label: NDArray[np.int32]
    time: Ints
    step: Ints
    value: NDArray[np.float64]
    seq: Ints
    offset: Ints
    partition: int

    def __len__(self) -> int:
        return len(self.label)

    def sorted(self) -> Block:
        """The same rows by label; those of one label stay in the order in which they came."""
        used, place = _distinct(self.label, len(self.labels))
        names = [self.labels[i] for i in used.tolist()]
        in_order = sorted(set(names))  # two blocks that were joined may each have a number for one label
        number = {name: i for i, name in enumerate(in_order)}
        ranks = np.array([number[name] for name in names], np.int64)[place]
        # numpy sorts 16-bit numbers by radix
        order = np.argsort(ranks.astype(np.uint16) if len(in_order) < 1 << 16 else ranks, kind="stable")
        return Block(
            in_order,
            ranks[order].astype(np.int32),
            self.time[order],
            self.step[order],
            self.value[order],
            self.seq[order],
            self.offset[order],
            self.partition,
        )

    def table(self, first: int, last: int) -> pa.Table:
        """Rows [first, last) as one row group; texts as Arrow dictionaries of just the words in it."""
        part = slice(first, last)
        used, place = _distinct(self.label[part], len(self.labels))
        labels = [self.labels[i] for i in used.tolist()]
        words = {field: _words([getattr(one, field) for one in labels], place) for field in Label._fields}
        columns: dict[str, Any] = {
            "time": numbers(self.time[part], METRICS_SCHEMA.field("time").type),
            "step": numbers(self.step[part]),
            "value": numbers(self.value[part]),
            "seq": numbers(self.seq[part]),
            "partition": numbers(np.full(len(place), self.partition, np.int32)),
            "offset": numbers(self.offset[part]),
            **words,
        }
        return pa.table({name: columns[name] for name in METRICS_SCHEMA.names})

    def groups(self, small: int = SMALL_GROUP, large: int = LARGE_GROUP) -> Iterator[pa.Table]:
        """Row groups of a sorted block: one series each where it has `small` rows or more, at most `large` rows."""
        for first, last in cut(self.label, small, large):
            yield self.table(first, last)


def cut(label: NDArray[Any], small: int, large: int) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) over sorted labels: a label with `small` rows or more stands alone.

    >>> list(cut(np.array([0, 1, 2, 2, 2, 2, 2, 2, 3]), small=3, large=4))
    [(0, 2), (2, 5), (5, 8), (8, 9)]
    """
    if not len(label):
        return
    edges = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), len(label)]
    start = 0
    for first, last in pairwise(edges):
        if last - first < small:
            if last - start >= small:
                yield start, last
                start = last
            continue
        if start < first:
            yield start, first
        pieces = -(-(last - first) // large)
        marks = [first + (last - first) * i // pieces for i in range(pieces + 1)]
        yield from pairwise(marks)
        start = last
    if start < len(label):
        yield start, len(label)


def _words(words: list[str], place: NDArray[Any]) -> pa.DictionaryArray:
    distinct = list(dict.fromkeys(words))
    number = {word: i for i, word in enumerate(distinct)}
    indices = np.array([number[word] for word in words], np.int32)[place]
    return pa.DictionaryArray.from_arrays(numbers(indices), texts(distinct))


def _distinct(label: NDArray[np.int32], size: int) -> tuple[Ints, Ints]:
    """The labels (of `size` there are) that occur, rising, and for each row the place of its own among them."""
    if size > len(label):
        found, place = np.unique(label, return_inverse=True)
        return found.astype(np.int64), place
    used = np.flatnonzero(np.bincount(label, minlength=size)).astype(np.int64)
    places = np.zeros(size, np.int64)
    places[used] = np.arange(len(used))
    return used, places[label]


def block_of(table: pa.Table, partition: int) -> Block:
    """The rows of a table that was read with its texts as dictionaries."""
    if not len(table):
        return Points(partition).block()
    table = table.unify_dictionaries().combine_chunks()
    words = [table.column(field).chunk(0) for field in Label._fields]
    key = np.zeros(len(table), np.int64)
    for one in words:
        if int(key.max()) + 1 > (1 << 62) // len(one.dictionary):
            key = np.unique(key, return_inverse=True)[1]
        key = key * len(one.dictionary) + values_of(one.indices)
    _, example, place = np.unique(key, return_index=True, return_inverse=True)
    examples = numbers(example)
    labels = [Label(*names) for names in zip(*(one.take(examples).to_pylist() for one in words), strict=True)]
    figures = {name: values_of(table.column(name)) for name in ("time", "step", "value", "seq", "offset")}
    return Block(labels, place.astype(np.int32), partition=partition, **figures)


def joined(first: Block, second: Block) -> Block:
    """The rows of `first`, then those of `second`."""
    return Block(
        [*first.labels, *second.labels],
        np.concatenate((first.label, second.label + np.int32(len(first.labels)))),
        np.concatenate((first.time, second.time)),
        np.concatenate((first.step, second.step)),
        np.concatenate((first.value, second.value)),
        np.concatenate((first.seq, second.seq)),
        np.concatenate((first.offset, second.offset)),
        first.partition,
    )


class SeriesMark:
    """How far a series of a source is stored: `last` is the position of its last point, `label` its number in Points."""

    __slots__ = ("label", "last")

    def __init__(self, last: int) -> None:
        self.label = -1
        self.last = last


class Points:
    """Rows of one partition that wait to be written."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.labels: list[Label] = []
        self._marked: list[SeriesMark] = []
        self.clear()

    def clear(self) -> None:
        """Forgets the rows and their labels."""
        for mark in self._marked:
            mark.label = -1
        self.labels, self._marked = [], []
        self._time, self._value = array("d"), array("d")
        self._step, self._seq = array("q"), array("q")
        # A piece is the rows of one series of one chunk: its label and number of rows. A chunk: its number of pieces, its
        # offset and append time.
        self._label, self._count = array("i"), array("q")
        self._pieces, self._offset, self._appended = array("q"), array("q"), array("d")

    def __len__(self) -> int:
        return len(self._value)

    def add(self, chunk: MetricChunk, marks: dict[str, SeriesMark], offset: int, appended: float) -> int:
        """Takes in what is new of a chunk; how many points were there already. OverflowError for a number that fits in
        no column: then nothing of the chunk was taken."""
        before, pieces, repeated, following = len(self._value), len(self._label), 0, chunk.seq
        undo: list[tuple[SeriesMark, int]] = []
        try:
            for one in chunk.series:
                count, at = len(one.steps), one.at
                mark = marks.get(one.name)
                if mark is None:
                    mark = marks[one.name] = SeriesMark(-1)
                seen = mark.last
                if count == 1:
                    skipped = self._append(one, following if at is None else chunk.seq + at[0], mark)
                elif count:
                    skipped = self._extend(one, following if at is None else chunk.seq, mark)
                else:
                    continue
                following += count
                repeated += skipped
                if count > skipped:
                    undo.append((mark, seen))
                    if mark.label < 0:
                        self._name(mark, Label(chunk.run, one.name, chunk.attempt, chunk.source))
                    self._label.append(mark.label)
                    self._count.append(count - skipped)
        except OverflowError:
            for column in (self._time, self._value, self._step, self._seq):
                del column[before:]
            del self._label[pieces:], self._count[pieces:]
            for mark, seen in reversed(undo):
                mark.last = seen
            raise OverflowError("a step or position is no 64-bit number") from None
        self._pieces.append(len(self._label) - pieces)
        self._offset.append(offset)
        self._appended.append(appended)
        return repeated

    def _name(self, mark: SeriesMark, label: Label) -> None:
        mark.label = len(self.labels)
        self.labels.append(label)
        self._marked.append(mark)

    def _append(self, one: Series, position: int, mark: SeriesMark) -> int:
        """The only point of a series, as a live job sends them; 1 if it was there already."""
        if position <= mark.last:
            return 1
        self._seq.append(position)
        self._step.append(one.steps[0])
        self._time.append(one.times[0])
        self._value.append(float(one.values[0]))
        mark.last = position
        return 0

    def _extend(self, one: Series, seq: int, mark: SeriesMark) -> int:
        """The points of a series behind the last that was taken; how many were there already."""
        steps, values, times, at, seen = one.steps, one.values, one.times, one.at, mark.last
        skipped = 0
        if (seq if at is None else seq + at[0]) <= seen:
            skipped = min(len(steps), seen + 1 - seq) if at is None else bisect_right(at, seen - seq)
            if skipped == len(steps):
                return skipped
            steps, values, times = steps[skipped:], values[skipped:], times[skipped:]
        self._seq.extend(range(seq + skipped, seq + skipped + len(steps)) if at is None else map(seq.__add__, at[skipped:]))
        self._step.extend(steps)
        self._time.extend(times)
        try:
            self._value.extend(values)  # type: ignore[arg-type]  # a word raises TypeError
        except TypeError:
            del self._value[len(self._step) - len(steps) :]
            self._value.extend(map(float, values))  # "NaN", "Infinity", "-Infinity"
        mark.last = self._seq[-1]
        return skipped

    def block(self) -> Block:
        """The rows as columns of their own; a time that no calendar knows is replaced by the time of the append."""
        counts, pieces = np.array(self._count), np.array(self._pieces)
        time = np.array(self._time)
        wrong = ~((time >= _EARLIEST_S) & (time <= _LATEST_S))
        if wrong.any():
            time[wrong] = np.repeat(np.repeat(np.array(self._appended), pieces), counts)[wrong]
        return Block(
            list(self.labels),
            np.repeat(np.array(self._label, np.int32), counts),
            np.rint(time * 1e6).astype(np.int64),
            np.array(self._step),
            np.array(self._value),
            np.array(self._seq),
            np.repeat(np.repeat(np.array(self._offset), pieces), counts),
            self.partition,
        )
