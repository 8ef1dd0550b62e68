"""Of each attempt and series the best and the last point, from the stored files, some row groups at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..core.events import Goal
from .arrow_columns import numbers, values_of
from .parquet_files import METRICS_SCHEMA
from .reading import asked_for, kinds, may_hold, of_those
from .store_url import read_each

BATCH_ROWS = 1_000_000
"""Points that are in memory at once."""
_WORDS = ["run", "attempt", "series"]
GoalOf = Callable[[str, str], Goal]
"""Whether the smallest or the greatest value is the best, of an attempt and a series."""


class Named(NamedTuple):
    """Whose points they are."""

    run: str
    attempt: str
    series: str


class Summary(NamedTuple):
    """`best`: the best finite value, NaN where there is none, and the step that reached it first. `last`: the value that was
    logged last, whatever it is, and its `offset` in the log."""

    best: float
    best_step: int
    last: float
    offset: int


def summaries(
    folder: str | os.PathLike[str],
    goal_of: GoalOf,
    runs: Sequence[str] | None = None,
    series: Sequence[str] | None = None,
) -> dict[Named, Summary]:
    """A summary of each attempt and series of these runs and series (None: of all)."""
    asked = asked_for(run=runs, series=series)

    def read(file: pq.ParquetFile) -> list[tuple[Named, Summary]]:
        groups = [i for i in range(file.num_row_groups) if may_hold(file.metadata.row_group(i), METRICS_SCHEMA, asked)]
        found: list[tuple[Named, Summary]] = []
        for batch in batches(file, groups):
            table = of_those(file.read_row_groups(batch, columns=[*_WORDS, "step", "value", "offset"]), asked)
            found += summarise(table, goal_of)
        return found

    best: dict[Named, Summary] = {}
    for parts in read_each(folder, "metrics", read, encoded=_WORDS):  # by partition and then in the order of the log
        for name, one in parts:
            seen = best.get(name)
            best[name] = one if seen is None else _joined(seen, one, goal_of(name.attempt, name.series))
    return best


def batches(file: pq.ParquetFile, groups: list[int]) -> Iterator[list[int]]:
    """Neighbouring row groups of at most BATCH_ROWS, or a single larger one."""
    batch: list[int] = []
    rows = 0
    for group in groups:
        count = file.metadata.row_group(group).num_rows
        if batch and rows + count > BATCH_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(group)
        rows += count
    if batch:
        yield batch


def summarise(table: pa.Table, goal_of: GoalOf) -> Iterator[tuple[Named, Summary]]:
    """A summary of each kind of rows of a table in which those of one series stand in the order in which they were logged."""
    kind, last = kinds(table, _WORDS)
    if not len(last):
        return
    step, value, offset = (values_of(table[name]) for name in ("step", "value", "offset"))
    names = [Named(*row.values()) for row in table.select(_WORDS).take(numbers(last)).to_pylist()]
    sign = np.array([1.0 if goal_of(name.attempt, name.series) == "min" else -1.0 for name in names])
    first = _first_best(kind, np.where(np.isfinite(value), value * sign[kind], np.inf), len(names))
    best = np.where(np.isfinite(value[first]), value[first], np.nan)
    columns = (best.tolist(), step[first].tolist(), value[last].tolist(), offset[last].tolist())
    yield from zip(names, map(Summary, *columns), strict=True)


def _first_best(kind: NDArray[np.int64], key: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """For each kind (every one occurs) the first row whose key is the smallest."""
    order = np.argsort(kind, kind="stable")
    starts = np.searchsorted(kind[order], np.arange(count))
    least = np.minimum.reduceat(key[order], starts)
    places = np.where(key == least[kind], np.arange(len(key)), len(key))
    return np.minimum.reduceat(places[order], starts)


def _joined(first: Summary, second: Summary, goal: Goal) -> Summary:
    """The summary of the points of both, `first` logged before `second` but for what came out of order."""
    falls = goal == "min"
    better = second.best == second.best and not (first.best <= second.best if falls else first.best >= second.best)
    best, last = second if better else first, second if second.offset >= first.offset else first
    return Summary(best.best, best.best_step, last.last, last.offset)
