"""What is stored as pandas frames: `smarttuner.read_metrics`, `read_runs` and `read_decisions`. Needs no daemon."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..bus.places import find_place
from ..core.errors import UsageError
from ..core.events import Goal
from .aliases import Aliases
from .hindsight import Hindsight
from .parquet_files import DECISIONS_SCHEMA, RUNS_SCHEMA
from .point_columns import PointColumns
from .reading import JSON_COLUMNS, Attempts, listed, metric_points, stored_rows
from .summaries import Named, Summary, summaries

if TYPE_CHECKING:
    import pandas as pd

Names = str | Sequence[str] | None
DataDir = str | os.PathLike[str] | None
_WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def read_metrics(
    run: Names = None, series: Names = None, wide: bool = False, attempts: Attempts = "current", data_dir: DataDir = None
) -> pd.DataFrame:
    """The stored points as a frame, by run, attempt, series and step; empty where nothing is stored under these names.

    `wide`: a row a step and a column a series, the last value where a step was logged twice. `attempts`: only each run's
    newest, or all. `data_dir`: a data directory or a store's URL (s3://bucket/prefix), else SMART_TUNER_DATA_DIR, the
    system's service, your own directory; where that has no tables, SMART_TUNER__STORE__URL.
    """
    points = metric_points(_place(data_dir), run, series, attempts)
    if not wide:
        frame: pd.DataFrame = points.table().to_pandas()
        return frame
    return _wide(points, [name for name, told in (("run", not isinstance(run, str)), ("attempt", attempts == "all")) if told])


def _wide(points: PointColumns, texts: Sequence[str]) -> pd.DataFrame:
    """A row for each value of `texts` and step (an attempt stands for its run), a column a series."""
    import numpy as np
    import pandas as pd

    of, step = points.key("run", "attempt", "series"), points.numbers["step"]
    points = points.take(np.append((np.diff(of) != 0) | (np.diff(step) != 0), True)[: len(of)])  # the last of each step
    whose, step = points.key(*texts), points.numbers["step"]
    order = np.lexsort((step, whose))
    first = np.append(True, (np.diff(whose[order]) != 0) | (np.diff(step[order]) != 0))[: len(order)]
    row = np.empty(len(order), np.int64)
    row[order] = np.cumsum(first) - 1
    used, column = np.unique(points.ranks["series"], return_inverse=True)
    table = np.full((len(used), int(first.sum())), np.nan)
    table[column, row] = points.numbers["value"]
    heads = order[first]
    levels = [np.array(points.words[name], object)[points.ranks[name][heads]] for name in texts]
    index = (
        pd.MultiIndex.from_arrays([*levels, step[heads]], names=[*texts, "step"]) if texts else pd.Index(step[heads], name="step")
    )
    return pd.DataFrame(table.T, index, pd.Index([points.words["series"][i] for i in used], name="series"))


def read_runs(
    run: Names = None, series: Names = None, goals: Mapping[str, Goal] | None = None, data_dir: DataDir = None
) -> pd.DataFrame:
    """A row an attempt, in the order in which they started: what `runs/` holds, with `tags` and `config` as dicts, and flat
    columns, NaN where an attempt has no such thing:

    `params.*` (of the job's `config=`, nested names joined by dots), `tags.*`, and for each series `best.*` (the best finite
    value), `best_step.*` (the step that reached it first) and `last.*` (the value logged last).
    The best is the greatest where `goals={"accuracy": "max"}` says so or the attempt monitors the series, under this name or
    another of the shipped aliases, with that goal; else the smallest. `series`: only these; the rest as in read_metrics.
    """
    import pandas as pd

    if wrong := {goal for goal in (goals or {}).values() if goal not in ("min", "max")}:
        raise UsageError(f"goals= has {wrong.pop()!r}", 'write goals={"accuracy": "max"}, or "min"')
    place = _place(data_dir)
    frame = _parsed(stored_rows(place, "runs", RUNS_SCHEMA, run=listed(run)).to_pandas())
    frame = frame.sort_values(["started", "attempt"], ignore_index=True)
    aliases = Aliases()
    said = zip(frame["attempt"], frame["monitor"], frame["goal"], strict=True)
    monitored: dict[Any, tuple[Any, Any]] = {attempt: (monitor, goal) for attempt, monitor, goal in said}

    def goal_of(attempt: str, name: str) -> Goal:
        if goals and name in goals:
            return goals[name]
        monitor, goal = monitored.get(attempt, ("", None))
        return "max" if goal == "max" and aliases.rank(monitor, name) is not None else "min"

    found = summaries(place, goal_of, listed(run), listed(series))
    rest = {name.attempt: name.run for name in found if name.attempt not in monitored}
    if rest:  # only points arrived of them
        frame = pd.concat([frame, pd.DataFrame({"run": list(rest.values()), "attempt": list(rest)})], ignore_index=True)
    parts = [_flat(frame["config"], "params."), _flat(frame["tags"], "tags."), _spread(frame["attempt"], found)]
    return pd.concat([frame, *parts], axis=1)


def read_decisions(run: Names = None, data_dir: DataDir = None) -> pd.DataFrame:
    """A row a decision in the order in which they were made: the columns of `smart-tuner decisions --json`, times as
    timestamps, `params`, `evidence` and the like as Python values, `hindsight` as a dict or None. `run` and `data_dir`
    as in read_metrics."""
    import pandas as pd

    place = _place(data_dir)
    frame = stored_rows(place, "decisions", DECISIONS_SCHEMA, run=listed(run)).to_pandas()
    frame = _parsed(frame).sort_values(["time", "run", "attempt", "step", "id"], ignore_index=True, na_position="first")
    rows = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    seen = Hindsight(place, rows)
    return frame.assign(hindsight=pd.Series([seen.of(row) for row in rows], frame.index, object))


def _place(data_dir: DataDir) -> str | os.PathLike[str]:
    """Where the tables lie: a store's URL as it is, else a data directory; where that has none, the store it is told to keep."""
    typed = os.fspath(data_dir or os.environ.get("SMART_TUNER_DATA_DIR") or "")
    if "://" in typed:
        return typed
    folder: Path = find_place(os.environ, data_dir).folder
    url = None if (folder / "metrics").is_dir() else os.environ.get("SMART_TUNER__STORE__URL")
    return folder if not url else url if "://" in url else folder / os.path.expanduser(url)


def _parsed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its columns of JSON texts as what they say; None where nothing is said."""
    import pandas as pd

    texts = {name: [_value(text) for text in frame[name]] for name in frame if name in JSON_COLUMNS}
    return frame.assign(**{name: pd.Series(column, frame.index, object) for name, column in texts.items()})


def _value(text: Any) -> Any:
    return _numbered(msgspec.json.decode(text)) if isinstance(text, str) else None


def _numbered(tree: Any) -> Any:
    """`tree` with the words for numbers that JSON cannot hold as these numbers.

    >>> _numbered({"best": ["-Infinity", 1, "no"]})
    {'best': [-inf, 1, 'no']}
    """
    if isinstance(tree, dict):
        return {key: _numbered(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_numbered(value) for value in tree]
    return _WORDS.get(tree, tree) if isinstance(tree, str) else tree


def _flat(column: pd.Series[Any], prefix: str) -> pd.DataFrame:
    """A column of dicts as a column a name, nested names joined by dots; NaN where a row has none."""
    import pandas as pd

    rows = [dict(_leaves(tree, prefix)) if isinstance(tree, dict) else {} for tree in column]
    return pd.DataFrame(rows, index=column.index)


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    """
    >>> list(_leaves({"lr": 0.1, "model": {"width": 8}, "of": {}}, "params."))
    [('params.lr', 0.1), ('params.model.width', 8), ('params.of', {})]
    """
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _spread(attempts: pd.Series[str], found: Mapping[Named, Summary]) -> pd.DataFrame:
    """The summaries as columns `best.*`, `best_step.*` and `last.*`, the series by name, a row an attempt."""
    import numpy as np
    import pandas as pd

    rows = {attempt: i for i, attempt in enumerate(attempts)}
    names = sorted({name.series for name in found})
    columns = {name: i for i, name in enumerate(names)}
    table = np.full((3, len(names), len(rows)), np.nan)  # a column of the frame is contiguous
    for name, one in found.items():
        step = one.best_step if one.best == one.best else np.nan
        table[:, columns[name.series], rows[name.attempt]] = one.best, step, one.last
    heads = [f"{what}.{name}" for what in ("best", "best_step", "last") for name in names]
    return pd.DataFrame(table.reshape(len(heads), len(rows)).T, columns=heads, index=attempts.index)
