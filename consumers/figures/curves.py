"""The points of one series, a curve an attempt, read from the stored files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..aliases import Aliases
from ..arrow_columns import values_of
from ..parquet_files import METRICS_SCHEMA
from ..reading import may_hold, of_those
from ..store_url import read_each

_WORDS = ["attempt", "series", "source"]
_READ = [*_WORDS, "step", "value", "seq"]


class Points(NamedTuple):
    """Columns of equal length, in the order in which they were logged; `series` is the name that the job gave them."""

    series: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]


def points_of(folder: str | os.PathLike[str], wanted: str, runs: Sequence[str], attempts: Sequence[str]) -> dict[str, Points]:
    """For each of these attempts of these runs that logged it the series `wanted`, under whichever name it goes by there."""
    names = Aliases().names(wanted)
    asked = {"run": list(runs), "series": list(names), "attempt": list(attempts)}

    def read(file: pq.ParquetFile) -> pa.Table:
        groups = [i for i in range(file.num_row_groups) if may_hold(file.metadata.row_group(i), METRICS_SCHEMA, asked)]
        return of_those(file.read_row_groups(groups, columns=["run", *_READ]), asked).select(_READ)

    parts = [part for part in read_each(folder, "metrics", read, encoded=["run", *_WORDS]) if len(part)]
    rank = {name: i for i, name in enumerate(names)}
    best: dict[str, Points] = {}
    for attempt, one in _cut(parts):
        if attempt not in best or rank[one.series] < rank[best[attempt].series]:
            best[attempt] = one
    return best


def _cut(parts: list[pa.Table]) -> Iterator[tuple[str, Points]]:
    """The rows by attempt and series; those of one source by position, source after source."""
    if not parts:
        return
    table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    codes, words = [], []
    for name in _WORDS:
        column = table[name].chunk(0)
        codes.append(values_of(column.indices))
        words.append(column.dictionary.to_pylist())
    attempt, series, source = codes
    order = np.lexsort((values_of(table["seq"]), source, series, attempt))
    steps, values = values_of(table["step"])[order], values_of(table["value"])[order]
    changes = (np.diff(attempt[order]) != 0) | (np.diff(series[order]) != 0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(order)]
    for first, last in pairwise(edges):
        row = order[first]
        yield words[0][attempt[row]], Points(words[1][series[row]], steps[first:last], values[first:last])
