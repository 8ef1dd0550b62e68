"""Past runs as trials to replay, from what a daemon stored (metrics/ and runs/), and from a tree of TensorBoard event files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core.errors import SmartTunerError, UsageError
from ..core.events import Started
from ..core.registry import did_you_mean
from .aliases import Aliases
from .arrow_columns import texts, values_of
from .parquet_files import METRICS_SCHEMA
from .past_trials import Asked, Past
from .reading import run_rows, stored_rows
from .replay import Points, Trial

EVENT_FILE = "tfevents"


def stored_trials(folder: str | os.PathLike[str], asked: Asked, judged: Collection[str], aliases: Aliases) -> Past:
    """The attempts that are stored, each with its series among `judged` or their aliases, and the one that it monitors."""
    runs = {row["attempt"]: row for row in run_rows(folder)}
    wanted = {*judged, *(name for row in runs.values() for name in _stated(row)), *([asked.series] if asked.series else [])}
    names = {one for name in wanted for one in aliases.names(name)}
    columns = ["time", "run", "attempt", "series", "step", "value", "source", "seq", "partition", "offset"]
    table = stored_rows(folder, "metrics", METRICS_SCHEMA, columns, series=sorted(names))
    if not len(table):
        known = sorted(set(stored_rows(folder, "metrics", METRICS_SCHEMA, ["series"])["series"].to_pylist()))
        hint = f"--series NAME judges one of {', '.join(known[:10])}" if known else "name another with --data-dir, or a table"
        raise SmartTunerError(f"nothing in {os.fspath(folder)} is called {', '.join(sorted(judged))}", hint)
    groups: dict[str, dict[str, Trial]] = {}
    for (run, attempt, series), points in _series(table):
        row = runs.get(attempt, {})
        group = _group(row, asked.group_by)
        trials = groups.setdefault(group if group is not None else run, {})
        met = trials.get(attempt)
        if met is None:
            trials[attempt] = Trial(run, attempt, group, _said(row, asked), {series: points}, row.get("state") or "running")
        else:
            trials[attempt] = replace(met, series={**met.series, series: points})
    return Past({label: list(trials.values()) for label, trials in sorted(groups.items())}, timed=True)


def _stated(row: Mapping[str, Any]) -> Iterator[str]:
    """The series that a job asked to have judged."""
    options = (one for one in (row["policies"] or {}).values() if isinstance(one, Mapping))
    yield from (name for name in (row["monitor"], *(one.get("series") for one in options)) if isinstance(name, str) and name)


def _said(row: Mapping[str, Any], asked: Asked) -> Started:
    return Started(
        monitor=asked.series or row.get("monitor"),
        goal=asked.goal or row.get("goal"),
        user=row.get("user") or "",
        host=row.get("host") or "",
        tags=row.get("tags") or {},
        config=row.get("config") or {},
        total_steps=row.get("total_steps"),
        policies=row.get("policies") or {},
    )


def _group(row: Mapping[str, Any], by: str | None) -> str | None:
    """What groups an attempt: its group, another column of runs/, `tags.NAME` or `params.NAME`."""
    head, _, key = (by or "group").partition(".")
    if key and head in ("tags", "params", "config"):
        found = (row.get("tags" if head == "tags" else "config") or {}).get(key)
    elif head in ("group", "user", "host"):
        found = row.get(head)
    else:
        raise UsageError(
            f"runs have no {by!r} to group by", did_you_mean(by or "", ["group", "user", "host", "tags.NAME", "params.NAME"])
        )
    return None if found is None else str(found)


def _series(table: pa.Table) -> Iterator[tuple[tuple[str, str, str], Points]]:
    """Each series of each attempt with its points in the order of the log."""
    partition, offset, seq = (values_of(table[name]) for name in ("partition", "offset", "seq"))
    times = values_of(table["time"]) / 1e6
    order = np.lexsort((seq, offset, partition))
    changes = (np.diff(partition[order], prepend=-1) != 0) | (np.diff(offset[order], prepend=-1) != 0)
    orders = np.empty(len(order), np.int64)
    orders[order] = np.cumsum(changes)
    code = np.zeros(len(table), np.int64)
    for name in ("attempt", "series"):
        encoded = table[name].combine_chunks().dictionary_encode()
        code = code * len(encoded.dictionary) + values_of(encoded.indices)
    own = np.lexsort((seq, orders, code))
    steps, values = values_of(table["step"]), values_of(table["value"])
    for rows in np.split(own, np.flatnonzero(np.diff(code[own])) + 1):
        first = int(rows[0])
        run, attempt, series, source = (str(table[name][first].as_py()) for name in ("run", "attempt", "series", "source"))
        rows = rows[_of_source(table, rows, source)]
        yield (
            (run, attempt, series),
            Points(source, seq[rows], steps[rows], values[rows], times[rows], times[rows], orders[rows]),
        )


def _of_source(table: pa.Table, rows: np.ndarray[Any, Any], source: str) -> Any:
    """Which rows came from the series' first source: positions count in one."""
    same = pc.equal(table["source"].take(pa.array(rows)), texts([source])[0])
    return np.array(same.to_pylist(), np.bool_) if pc.all(same).as_py() is False else slice(None)


# -- TensorBoard -----------------------------------------------------------------------------------------------------


def is_event_tree(path: Path) -> bool:
    """Whether event files lie in the folder or below it."""
    return any(EVENT_FILE in name for _, _, names in os.walk(path) for name in names)


def event_trials(path: Path, asked: Asked, judged: Collection[str], aliases: Aliases) -> Past:
    """A run for each folder with event files, by its path; the folder above it is its group. A file that breaks off is read
    up to there."""
    groups: dict[str, dict[str, Trial]] = {}
    wanted = [asked.series] if asked.series else [*judged]
    seen: set[str] = set()
    for folder, _, names in sorted(os.walk(path)):
        files = sorted(os.path.join(folder, name) for name in names if EVENT_FILE in name)
        if not files:
            continue
        run = os.path.relpath(folder, path)
        scalars = _scalars(files)
        seen.update(scalars)
        found = next((one for name in wanted if (one := aliases.find(name, scalars)) is not None), None)
        if found is None:
            continue
        group = os.path.dirname(run) or path.name
        steps, values, times = (np.array(column) for column in zip(*scalars[found], strict=True))
        points = Points("tensorboard", np.arange(len(steps)), steps, values, times, times, np.arange(len(steps)))
        said = Started(monitor=found, goal=asked.goal)
        groups.setdefault(group, {})[run] = Trial(run, run, group, said, {found: points})
    if not groups:
        hint = f"--series NAME judges one of {', '.join(sorted(seen)[:10])}" if seen else "its files hold no scalars"
        raise SmartTunerError(f"no run below {path} logged {', '.join(wanted)}", hint)
    return Past({label: _interleaved(list(trials.values())) for label, trials in groups.items()}, timed=True)


def _scalars(files: list[str]) -> dict[str, list[tuple[int, float, float]]]:
    """(step, value, time) of each scalar, in the order of the files."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise UsageError("event files need tensorboard", "pip install tensorboard") from error
    found: dict[str, list[tuple[int, float, float]]] = {}
    for file in files:
        for event in EventFileLoader(file).Load():
            for value in event.summary.value:
                if value.HasField("tensor") and value.metadata.plugin_data.plugin_name in ("scalars", ""):
                    number = make_ndarray(value.tensor)
                    if number.size == 1:
                        found.setdefault(value.tag, []).append((event.step, float(number.item()), event.wall_time))
    return found


def _interleaved(trials: list[Trial]) -> list[Trial]:
    """Trials of one group with their points numbered in the order in which they were born."""
    times = np.concatenate([one.times for trial in trials for one in trial.series.values()])
    orders = np.empty(len(times), np.int64)
    orders[np.argsort(times, kind="stable")] = np.arange(1, len(times) + 1)
    at, made = 0, []
    for trial in trials:
        series = {}
        for name, one in trial.series.items():
            own = np.sort(orders[at : at + len(one.times)])
            series[name] = Points(one.source, one.positions, one.steps, one.values, one.times, one.times, own)
            at += len(one.times)
        made.append(Trial(trial.run, trial.attempt, trial.group, trial.said, series, trial.state))
    return made
