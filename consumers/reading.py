"""Reading what is stored: metrics as a pandas frame, runs and decisions as rows. Needs no daemon.

The three folders are plain Parquet, and a bare `pandas.read_parquet` reads them; here are the questions asked most.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from ..bus.places import find_place
from ..core.errors import UsageError
from .parquet_files import DECISIONS_SCHEMA, METRICS_SCHEMA, RUNS_SCHEMA

if TYPE_CHECKING:
    import pandas as pd

Attempts = Literal["current", "all"]
_JSON = ("tags", "config", "params", "evidence", "before", "after")
_ORDER = [("run", "ascending"), ("attempt", "ascending"), ("series", "ascending"), ("step", "ascending"), ("seq", "ascending")]


def read_metrics(
    run: str | Sequence[str] | None = None,
    series: str | Sequence[str] | None = None,
    wide: bool = False,
    attempts: Attempts = "current",
    data_dir: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """The stored points as a frame, by run, attempt, series and step; empty where nothing is stored under these names.

    `wide`: a row a step and a column a series, the last value where a step was logged twice. `attempts`: only each run's
    newest, or all. `data_dir`: as everywhere, else SMART_TUNER_DATA_DIR, the system's service, your own directory.
    """
    frame: pd.DataFrame = metric_table(find_place(os.environ, data_dir).folder, run, series, attempts).to_pandas()
    if not wide:
        return frame
    rows = [name for name, several in (("run", not isinstance(run, str)), ("attempt", attempts == "all")) if several]
    rows.append("step")
    last = frame.drop_duplicates([*rows, "series"], keep="last")
    return last.pivot(index=rows, columns="series", values="value")


def metric_table(
    folder: str | os.PathLike[str],
    run: str | Sequence[str] | None = None,
    series: str | Sequence[str] | None = None,
    attempts: Attempts = "current",
) -> pa.Table:
    """The stored points in METRICS_SCHEMA, sorted; files and row groups that cannot hold them are not read."""
    if attempts not in ("current", "all"):
        raise UsageError(f"attempts={attempts!r}", 'write attempts="current" or attempts="all"')
    wanted = _among("run", run) & _among("series", series)
    newest = _newest_attempts(folder, run) if attempts == "current" else {}
    if newest and run is not None:
        wanted &= pc.field("attempt").isin(list(newest.values())) | ~pc.field("run").isin(list(newest))
    table = _rows(folder, "metrics", METRICS_SCHEMA, wanted)
    if attempts == "current":
        table = _of_newest(table, newest)
    return table.sort_by(_ORDER)


def _among(column: str, names: str | Sequence[str] | None) -> pc.Expression:
    if names is None:
        return pc.scalar(True)
    return pc.field(column) == names if isinstance(names, str) else pc.field(column).isin(list(names))


def _rows(folder: str | os.PathLike[str], name: str, schema: pa.Schema, wanted: pc.Expression | None = None) -> pa.Table:
    path = Path(folder) / name
    if not path.is_dir():
        return schema.empty_table()
    return ds.dataset(path, schema=schema, format="parquet").to_table(filter=wanted)


def _newest_attempts(folder: str | os.PathLike[str], run: str | Sequence[str] | None) -> dict[str, str]:
    """The newest attempt of each run that `runs/` knows."""
    table = _rows(folder, "runs", RUNS_SCHEMA, _among("run", run)).select(["run", "attempt_number", "attempt"])
    return {row["run"]: row["attempt"] for row in table.sort_by("attempt_number").to_pylist()}


def _of_newest(table: pa.Table, newest: dict[str, str]) -> pa.Table:
    """The rows of each run's newest attempt; of a run without events that of the greatest id, for ids sort by time."""
    pairs = table.group_by(["run", "attempt"]).aggregate([]).to_pylist()
    found: dict[str, str] = {}
    for pair in pairs:
        found[pair["run"]] = max(pair["attempt"], found.get(pair["run"], ""))
    kept = list({**found, **newest}.values())
    if all(pair["attempt"] in set(kept) for pair in pairs):
        return table
    return table.filter(pc.is_in(table["attempt"], pa.array(kept)))


def run_rows(data_dir: str | os.PathLike[str], run: str | None = None) -> list[dict[str, Any]]:
    """The attempts in the order in which they started, as JSON shows them: times in RFC 3339, tags and config parsed."""
    rows = plain_rows(_rows(data_dir, "runs", RUNS_SCHEMA, _among("run", run)))
    return sorted(rows, key=lambda row: (row["started"] or "", row["attempt"]))


def decision_rows(data_dir: str | os.PathLike[str], run: str | None = None) -> list[dict[str, Any]]:
    """The decisions in the order in which they were made, as JSON shows them."""
    rows = plain_rows(_rows(data_dir, "decisions", DECISIONS_SCHEMA, _among("run", run)))
    return sorted(rows, key=lambda row: (row["time"] or "", row["id"]))


def last_points(data_dir: str | os.PathLike[str], run: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each attempt and series the point that was logged last: {attempt: {series: {step, value, time}}}."""
    table = _rows(data_dir, "metrics", METRICS_SCHEMA, _among("run", run))
    table = table.select(["attempt", "series", "step", "value", "time"])
    last = table.group_by(["attempt", "series"], use_threads=False).aggregate([(c, "last") for c in ("step", "value", "time")])
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in last.to_pylist():
        point = {"step": row["step_last"], "value": spelled(row["value_last"]), "time": rfc3339(row["time_last"])}
        found.setdefault(row["attempt"], {})[row["series"]] = point
    return found


def run_names(data_dir: str | os.PathLike[str]) -> list[str]:
    """Every run that is stored, also one of which only points arrived."""
    names: set[str] = set()
    for name, schema in (("runs", RUNS_SCHEMA), ("metrics", METRICS_SCHEMA)):
        path = Path(data_dir) / name
        if path.is_dir():
            column = ds.dataset(path, schema=schema, format="parquet").to_table(columns=["run"])["run"]
            names.update(pc.unique(column).to_pylist())
    return sorted(names)


def plain_rows(table: pa.Table) -> Iterable[dict[str, Any]]:
    """The rows as JSON shows them: times in RFC 3339, JSON texts parsed, numbers that are not finite as words."""
    for row in table.to_pylist():
        for name, value in row.items():
            if isinstance(value, datetime):
                row[name] = rfc3339(value)
            elif name in _JSON and value is not None:
                row[name] = msgspec.json.decode(value)
            elif isinstance(value, float):
                row[name] = spelled(value)
        yield row


def rfc3339(time: datetime) -> str:
    """A time as JSON shows it.

    >>> rfc3339(datetime(2026, 11, 22, 7, 5, tzinfo=UTC))
    '2026-11-22T07:05:00.000000Z'
    """
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rfc3339_of(seconds: float) -> str:
    """Seconds since 1970 as JSON shows them."""
    return rfc3339(datetime.fromtimestamp(seconds, UTC))


def spelled(value: float) -> float | str:
    """A value as JSON can hold it: what is not finite as a word.

    >>> spelled(0.5), spelled(float("-inf"))
    (0.5, '-Infinity')
    """
    if value - value == 0.0:
        return value
    return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
