"""Past runs as trials to replay, from a table: a row a point, in Parquet or CSV.

Columns: `step`, `value`, and `run` or `trial`; `group`, `higher_is_better`, `time` (seconds, or a timestamp), `series`,
`attempt`, `source`, `seq` where they are known. Without times the runs of a group are taken as started together, and fed in
the order of their steps; ties as they stand in the table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pyarrow.parquet as pq

from ..core.errors import UsageError
from ..core.events import Goal, Started
from ..core.measures import Mask
from ..core.registry import did_you_mean
from ..core.window import Floats, Ints
from .arrow_columns import values_of
from .replay import Points, Trial

START_S = 1_700_000_000.0
"""Where the table tells no times, the n-th point of a group was taken n seconds after this."""
NO_VALUE = ["", "null", "NULL", "None", "NA", "N/A"]
"""What says in a .csv that there is no value; NaN is one."""
VALUE = "value"
"""What the judged series of a table is called that names none."""


@dataclass(frozen=True)
class Past:
    """Trials by group, a run without one by itself; `skipped` rows had no step or no number; `timed`: with real times."""

    groups: Mapping[str, Sequence[Trial]]
    skipped: int = 0
    timed: bool = False

    @property
    def trials(self) -> int:
        return sum(len(trials) for trials in self.groups.values())


@dataclass(frozen=True)
class Asked:
    """How a person wants the past to be read: the column that groups, the series that is judged, and its direction."""

    group_by: str | None = None
    series: str | None = None
    goal: Goal | None = None


def read_table(path: Path) -> pa.Table:
    """The table in a file, a .csv or else Parquet; UsageError for what is neither."""
    try:
        return (
            pv.read_csv(path, convert_options=pv.ConvertOptions(null_values=NO_VALUE))
            if path.suffix.lower() in (".csv", ".tsv", ".txt")
            else pq.read_table(path)
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"{path} cannot be read: {first}", "replay reads Parquet, and .csv with a head line") from error


def trials_of(table: pa.Table, asked: Asked) -> Past:
    """The trials in a table. UsageError names a column that is missing."""
    runs = _first_of(table, ("run", "trial"))
    name = asked.group_by or ("group" if "group" in table.column_names else None)
    if asked.series is not None and "series" not in table.column_names and asked.series not in table.column_names:
        raise UsageError(f"no column is called {asked.series!r}", did_you_mean(asked.series, table.column_names))
    named = asked.series is not None and "series" not in table.column_names
    values = asked.series if named and asked.series is not None else VALUE
    for needed in (runs, "step", values, name):
        if needed is not None and needed not in table.column_names:
            known = ", ".join(table.column_names)
            raise UsageError(f"the table has no column {needed!r}", f"it has {known}; --group-by and --series name others")
    steps, whole = _whole(table["step"])
    numbers = _floats(table[values])
    kept: Mask = whole & ~_missing(table[values])
    if not kept.all():
        table, steps, numbers = table.filter(pa.array(kept)), steps[kept], numbers[kept]
    timed = "time" in table.column_names
    columns = _Columns(table, steps, numbers, _floats(table["time"]) * _unit(table["time"].type) if timed else None)
    return Past(_grouped(columns, runs, name, values, asked), int((~kept).sum()), timed)


@dataclass
class _Columns:
    table: pa.Table
    steps: Ints
    values: Floats
    times: Floats | None

    def codes(self, *names: str) -> Ints:
        """For each row the number of its combination of the named columns."""
        code = np.zeros(len(self.table), np.int64)
        for name in names:
            encoded = self.table[name].combine_chunks().cast(pa.string()).dictionary_encode()
            code = code * (len(encoded.dictionary) + 1) + values_of(encoded.indices.fill_null(len(encoded.dictionary)))
        return np.unique(code, return_inverse=True)[1].astype(np.int64) if len(code) else code


def _grouped(columns: _Columns, runs: str, name: str | None, values: str, asked: Asked) -> dict[str, list[Trial]]:
    table, has = columns.table, set(columns.table.column_names)
    group = columns.codes(name) if name is not None else columns.codes(runs)
    keys = [key for key in (name, runs, "attempt", "series") if key is not None and key in has]
    trial = columns.codes(*keys)
    when = columns.steps if columns.times is None else columns.times
    order = np.lexsort((np.arange(len(when)), when, group))
    orders = np.empty(len(order), np.int64)
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    orders[order] = np.arange(len(order)) - np.repeat(starts, sizes) + 1
    own = np.lexsort((orders, trial))
    found: dict[str, dict[str, Trial]] = {}
    for rows in np.split(own, np.flatnonzero(np.diff(trial[own])) + 1) if len(own) else ():
        first = int(rows[0])
        said = {key: str(table[key][first].as_py()) for key in keys}
        label = said[name] if name is not None else said[runs]
        attempt, series = said.get("attempt", said[runs]), said.get("series", values)
        times: Floats = (START_S + orders[rows]).astype(np.float64) if columns.times is None else columns.times[rows]
        positions = np.arange(len(rows)) if "seq" not in has else _floats(table["seq"].take(pa.array(rows))).astype(np.int64)
        source = str(table["source"][first].as_py()) if "source" in has else "table"
        points = Points(source, positions, columns.steps[rows], columns.values[rows], times, times, orders[rows])
        goal: Goal = asked.goal or ("max" if "higher_is_better" in has and _truth(table["higher_is_better"][first]) else "min")
        trials = found.setdefault(label, {})
        known = trials.get(attempt)
        monitor = asked.series or (series if "series" not in has else None)
        if known is None:
            started = Started(monitor=monitor, goal=goal)
            trials[attempt] = Trial(said[runs], attempt, label if name is not None else None, started, {series: points})
        else:
            trials[attempt] = replace(known, series={**known.series, series: points})
    return {label: list(trials.values()) for label, trials in found.items()}


def _first_of(table: pa.Table, names: Collection[str]) -> str:
    found = next((name for name in names if name in table.column_names), None)
    if found is None:
        known = ", ".join(table.column_names)
        raise UsageError(f"the table has no column {' or '.join(names)}", f"it has {known}; rename the one that names the run")
    return found


def _missing(column: pa.ChunkedArray) -> Mask:
    return np.array(column.is_null().to_pylist(), np.bool_) if column.null_count else np.zeros(len(column), np.bool_)


def _floats(column: pa.ChunkedArray) -> Floats:
    """A column as numbers, NaN for what is none."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    try:
        wide = pc.fill_null(column.cast(pa.float64()), float("nan"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.array([_number(word) for word in column.to_pylist()])
    return np.array(values_of(wide), np.float64)


def _number(word: object) -> float:
    try:
        return float(word)  # type: ignore[arg-type]  # what is no number is NaN
    except (TypeError, ValueError):
        return float("nan")


def _whole(column: pa.ChunkedArray) -> tuple[Ints, Mask]:
    """The steps, and which of them are whole numbers."""
    if pa.types.is_integer(column.type) and not column.null_count:
        return np.array(values_of(column.cast(pa.int64()))), np.ones(len(column), np.bool_)
    numbers = _floats(column)
    known = np.isfinite(numbers) & (np.abs(numbers) < 2.0**53)
    return np.where(known, np.floor(np.where(known, numbers, 0.0)), 0).astype(np.int64), known


def _unit(form: pa.DataType) -> float:
    """Seconds of one unit of a column of times."""
    return {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[form.unit] if pa.types.is_timestamp(form) else 1.0


def _truth(value: pa.Scalar) -> bool:
    word = value.as_py()
    return str(word).strip().lower() in ("true", "1", "1.0", "yes", "max") if word is not None else False
