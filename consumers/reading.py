"""Reading what is stored: metrics as a table, runs and decisions as rows. Needs no daemon, and no pandas (frames.py does).

The three folders are plain Parquet, and a bare `pandas.read_parquet` reads them; here are the questions asked most.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..core.errors import UsageError
from .arrow_columns import numbers, rows_of, table_of, texts, values_of, with_all
from .parquet_files import DECISIONS_SCHEMA, METRICS_SCHEMA, RUNS_SCHEMA
from .point_columns import TEXTS, PointColumns
from .store_url import read_each

Attempts = Literal["current", "all"]
JSON_COLUMNS = {"tags", "config", "policies", "params", "evidence", "before", "after"}


def metric_table(
    folder: str | os.PathLike[str],
    run: str | Sequence[str] | None = None,
    series: str | Sequence[str] | None = None,
    attempts: Attempts = "current",
) -> pa.Table:
    """The stored points in METRICS_SCHEMA, by run, attempt, series, step and seq."""
    return metric_points(folder, run, series, attempts).table()


def metric_points(
    folder: str | os.PathLike[str],
    run: str | Sequence[str] | None = None,
    series: str | Sequence[str] | None = None,
    attempts: Attempts = "current",
) -> PointColumns:
    """The same as plain columns."""
    if attempts not in ("current", "all"):
        raise UsageError(f"attempts={attempts!r}", 'write attempts="current" or attempts="all"')
    newest = _newest_attempts(folder, run) if attempts == "current" else {}
    runs, wanted = listed(run), None
    if runs is not None and newest.keys() >= set(runs):
        wanted = [newest[name] for name in runs]
    asked = asked_for(run=runs, series=listed(series), attempt=wanted)
    points = PointColumns.of(_rows(folder, "metrics", METRICS_SCHEMA, METRICS_SCHEMA.names, asked, TEXTS))
    return (_of_newest(points, newest) if attempts == "current" else points).sorted()


def listed(names: str | Sequence[str] | None) -> list[str] | None:
    """One name or several as a list; None stays None, which is all."""
    return [names] if isinstance(names, str) else None if names is None else list(names)


def stored_rows(
    folder: str | os.PathLike[str],
    name: str,
    schema: pa.Schema,
    columns: list[str] | None = None,
    **wanted: list[str] | None,
) -> pa.Table:
    """The rows of one of the three folders whose texts are among those wanted. Row groups that cannot hold any are not
    read. (pyarrow.dataset does the same, and imports pandas: too long for a command.)"""
    return _rows(folder, name, schema, columns or schema.names, asked_for(**wanted))


def _rows(
    folder: str | os.PathLike[str],
    name: str,
    schema: pa.Schema,
    columns: list[str],
    asked: dict[str, list[str]],
    encoded: Sequence[str] = (),
) -> pa.Table:
    """The same, the texts named in `encoded` as dictionaries where there are any rows."""

    def read(file: pq.ParquetFile) -> pa.Table:
        groups = [i for i in range(file.num_row_groups) if may_hold(file.metadata.row_group(i), schema, asked)]
        found = of_those(file.read_row_groups(groups, columns=list({*columns, *asked})), asked)
        return with_all(found, [schema.field(name) for name in columns]).select(columns)

    parts = [part for part in read_each(folder, name, read, encoded) if len(part)]
    return pa.concat_tables(parts) if parts else table_of([], pa.schema([schema.field(name) for name in columns]))


def asked_for(**wanted: Sequence[str] | None) -> dict[str, list[str]]:
    """What is asked for of each column, in order; columns of which anything will do are left out."""
    return {column: sorted(values) for column, values in wanted.items() if values is not None}


def may_hold(group: pq.RowGroupMetaData, schema: pa.Schema, asked: dict[str, list[str]]) -> bool:
    """Whether a row group's statistics leave it open that it has such rows."""
    for column, values in asked.items():
        known = group.column(schema.get_field_index(column)).statistics
        if known is not None and known.has_min_max:
            place = bisect_left(values, known.min)
            if place == len(values) or values[place] > known.max:
                return False
    return True


def of_those(table: pa.Table, asked: dict[str, list[str]]) -> pa.Table:
    """The rows whose texts are among those asked for, column by column."""
    for column, values in asked.items():
        if not _all_are(table[column], values):
            table = table.filter(pc.is_in(table[column], texts(values)))
    return table


def _all_are(column: pa.ChunkedArray, values: list[str]) -> bool:
    """Whether every text is one of `values`, as a column that was read as a dictionary says without a look at the rows."""
    if not pa.types.is_dictionary(column.type):
        return False
    return {word for chunk in column.chunks for word in chunk.dictionary.to_pylist()} <= set(values)


def _newest_attempts(folder: str | os.PathLike[str], run: str | Sequence[str] | None) -> dict[str, str]:
    """The newest attempt of each run that `runs/` knows."""
    table = stored_rows(folder, "runs", RUNS_SCHEMA, ["run", "attempt_number", "attempt"], run=listed(run))
    return {row["run"]: row["attempt"] for row in table.sort_by("attempt_number").to_pylist()}


def _of_newest(points: PointColumns, newest: dict[str, str]) -> PointColumns:
    """The rows of each run's newest attempt; of a run without events that of the greatest id, for ids sort by time."""
    runs, attempts = points.words["run"], points.words["attempt"]
    pairs = points.key("run", "attempt")
    there = np.unique(pairs)
    found: dict[str, int] = {}
    for run, attempt in (divmod(pair, len(attempts)) for pair in there.tolist()):  # rising
        known = newest.get(runs[run])
        if known is None or known == attempts[attempt]:
            found[runs[run]] = run * len(attempts) + attempt
    if len(found) == len(there):
        return points
    return points.take(np.isin(pairs, np.array(list(found.values()), np.int64)))


def kinds(table: pa.Table, columns: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row the number of its combination of `columns`, and the last row of each combination."""
    kind = np.zeros(len(table), np.int64)
    for column in columns:
        encoded = table[column].combine_chunks().dictionary_encode()
        kind = kind * max(1, len(encoded.dictionary)) + values_of(encoded.indices)
        kind = np.unique(kind, return_inverse=True)[1]
    last = np.zeros(int(kind.max()) + 1 if len(kind) else 0, np.int64)
    last[kind] = np.arange(len(kind))  # of several rows of a kind the last one stays
    return kind, last


def run_rows(data_dir: str | os.PathLike[str], run: str | None = None) -> list[dict[str, Any]]:
    """The attempts in the order in which they started, as JSON shows them: times in RFC 3339, tags and config parsed."""
    rows = plain_rows(stored_rows(data_dir, "runs", RUNS_SCHEMA, run=listed(run)))
    return sorted(rows, key=lambda row: (row["started"] or "", row["attempt"]))


def decision_rows(data_dir: str | os.PathLike[str], run: str | None = None) -> list[dict[str, Any]]:
    """The decisions in the order in which they were made, as JSON shows them; those on points that reached the log at once
    by step."""
    rows = plain_rows(stored_rows(data_dir, "decisions", DECISIONS_SCHEMA, run=listed(run)))
    return sorted(rows, key=lambda row: (row["time"] or "", row["run"], row["attempt"], row["step"] or 0, row["id"]))


def last_points(data_dir: str | os.PathLike[str], run: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each attempt and series the point that was logged last: {attempt: {series: {step, value, time}}}."""
    table = stored_rows(data_dir, "metrics", METRICS_SCHEMA, ["attempt", "series", "step", "value", "time"], run=listed(run))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows_of(table.take(numbers(kinds(table, ["attempt", "series"])[1]))):
        point = {"step": row["step"], "value": spelled(row["value"]), "time": rfc3339(row["time"])}
        found.setdefault(row["attempt"], {})[row["series"]] = point
    return found


def run_names(data_dir: str | os.PathLike[str]) -> list[str]:
    """Every run that is stored, also one of which only points arrived."""
    names: set[str] = set()
    for name, schema in (("runs", RUNS_SCHEMA), ("metrics", METRICS_SCHEMA)):
        names.update(pc.unique(stored_rows(data_dir, name, schema, ["run"])["run"]).to_pylist())
    return sorted(names)


def plain_rows(table: pa.Table) -> Iterable[dict[str, Any]]:
    """The rows as JSON shows them: times in RFC 3339, JSON texts parsed, numbers that are not finite as words."""
    times = [one.name for one in table.schema if pa.types.is_timestamp(one.type)]
    figures = [one.name for one in table.schema if pa.types.is_floating(one.type)]
    for row in rows_of(table):
        for name in times:
            row[name] = None if row[name] is None else rfc3339(row[name])
        for name in JSON_COLUMNS & row.keys():
            row[name] = None if row[name] is None else msgspec.json.decode(row[name])
        for name in figures:
            row[name] = None if row[name] is None else spelled(row[name])
        yield row


def rfc3339(time_us: int) -> str:
    """µs since 1970 as JSON shows them.

    >>> rfc3339(1_700_000_000_000_001)
    '2023-11-14T22:13:20.000001Z'
    """
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rfc3339_of(seconds: float) -> str:
    """Seconds since 1970 as JSON shows them."""
    return rfc3339(round(seconds * 1e6))


def spelled(value: float) -> float | str:
    """A value as JSON can hold it: what is not finite as a word.

    >>> spelled(0.5), spelled(float("-inf"))
    (0.5, '-Infinity')
    """
    if value - value == 0.0:
        return value
    return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
