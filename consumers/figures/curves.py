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

from ..aliases import ALIASES, Aliases
from ..arrow_columns import values_of
from ..parquet_files import METRICS_SCHEMA
from ..reading import asked_for, may_hold, of_those
from ..store_url import read_each

Ints = NDArray[np.int64]
_WORDS = ["attempt", "series", "source"]
_READ = [*_WORDS, "step", "value", "seq"]


class Points(NamedTuple):
    """Columns of equal length, in the order in which they were logged; `series` is the name that the job gave them."""

    series: str
    steps: Ints
    values: NDArray[np.float64]


class _Origin(NamedTuple):
    attempt: str
    series: str
    source: str


class _Piece(NamedTuple):
    seq: Ints
    steps: Ints
    values: NDArray[np.float64]


def points_of(
    folder: str | os.PathLike[str], wanted: str, runs: Sequence[str], attempts: Sequence[str], aliases: Aliases = ALIASES
) -> dict[str, Points]:
    """For each of these attempts of these runs that logged it the series `wanted`, under whichever name it goes by there."""
    names = aliases.names(wanted)
    asked = asked_for(run=runs, series=names, attempt=attempts)

    def read(file: pq.ParquetFile) -> list[tuple[_Origin, _Piece]]:
        groups = [i for i in range(file.num_row_groups) if may_hold(file.metadata.row_group(i), METRICS_SCHEMA, asked)]
        return list(_pieces(of_those(file.read_row_groups(groups, columns=["run", *_READ]), asked)))

    found: dict[_Origin, list[_Piece]] = {}
    for pieces in read_each(folder, "metrics", read, encoded=["run", *_WORDS]):
        for origin, piece in pieces:
            found.setdefault(origin, []).append(piece)
    rank = {name: i for i, name in enumerate(names)}
    best: dict[str, list[_Origin]] = {}
    for origin in found:
        chosen = best.setdefault(origin.attempt, [origin])
        if rank[origin.series] < rank[chosen[0].series]:
            best[origin.attempt] = [origin]
        elif origin is not chosen[0] and origin.series == chosen[0].series:
            chosen.append(origin)
    return {attempt: _joined([found[origin] for origin in origins], origins[0].series) for attempt, origins in best.items()}


def _joined(sources: list[list[_Piece]], series: str) -> Points:
    """The points of one source after those of another, each by position."""
    parts = []
    for pieces in sources:
        one = _Piece(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))
        if (np.diff(one.seq) < 0).any():
            order = np.argsort(one.seq, kind="stable")
            one = _Piece(one.seq[order], one.steps[order], one.values[order])
        parts.append(one)
    return Points(series, np.concatenate([one.steps for one in parts]), np.concatenate([one.values for one in parts]))


def _pieces(table: pa.Table) -> Iterator[tuple[_Origin, _Piece]]:
    """The rows by origin, as they stand in the file: those of one origin are in the order of the log there."""
    if not len(table):
        return
    table = table.unify_dictionaries()
    words = [table[name].chunk(0).dictionary.to_pylist() for name in _WORDS]
    kind = np.zeros(len(table), np.int64)
    for name, known in zip(_WORDS, words, strict=True):
        kind = kind * len(known) + np.concatenate([values_of(chunk.indices) for chunk in table[name].chunks])
    columns = [values_of(table[name]) for name in ("seq", "step", "value")]
    if (np.diff(kind) < 0).any():
        order = np.argsort(kind, kind="stable")
        kind, columns = kind[order], [one[order] for one in columns]
    edges = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), len(kind)]
    for first, last in pairwise(edges):
        rest, source = divmod(int(kind[first]), len(words[2]))
        attempt, series = divmod(rest, len(words[1]))
        yield _Origin(words[0][attempt], words[1][series], words[2][source]), _Piece(*(one[first:last] for one in columns))
