"""What the three folders hold, as anybody's pandas reads them, and whether it is what the log says: every point, once."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pandas as pd
import pyarrow.dataset  # what pyarrow imports when it is used first, once for all forks
import pyarrow.pandas_compat  # noqa: F401
from smarttuner.core.errors import CorruptData
from smarttuner.core.events import MetricChunk, decode
from smarttuner.core.ports import Record

Point = tuple[str, str, str, int]
"""attempt, series, source, position"""
ORDER = {
    "metrics": ["run", "attempt", "source", "seq", "series"],
    "runs": ["run", "attempt"],
    "decisions": ["time", "id"],
}


def frames(folder: str) -> dict[str, pd.DataFrame]:
    """The folders, read bare."""
    return {name: pd.read_parquet(os.path.join(folder, name)).sort_values(order) for name, order in ORDER.items()}


def rows(frame: pd.DataFrame) -> list[list[Any]]:
    """A frame's rows without the offsets, as plain values."""
    plain = frame.drop(columns=["offset"], errors="ignore")
    return [[None if one is None or one is pd.NaT else str(one) for one in row] for row in plain.itertuples(index=False)]


def logged(records: list[Record]) -> dict[Point, tuple[int, str]]:
    """Every point on the log, by where it stands, with its step and value; of one that was sent again the first."""
    found: dict[Point, tuple[int, str]] = {}
    for record in records:
        try:
            event = decode(record.body)
        except CorruptData:
            continue
        if isinstance(event, MetricChunk):
            for one, positions in event.positions():
                for step, value, position in zip(one.steps, one.values, positions, strict=True):
                    found.setdefault((event.attempt, one.name, event.source, position), (step, str(float(value))))
    return found


def broken(metrics: pd.DataFrame, records: list[Record]) -> list[str]:
    """Points that are missing, there twice, changed or made up."""
    expected = logged(records)
    points = list(zip(metrics["attempt"], metrics["series"], metrics["source"], metrics["seq"], strict=True))
    said = []
    twice = [point for point, count in Counter(points).items() if count > 1]
    if twice:
        said.append(f"{len(twice)} points are there twice, the first is {twice[0]}")
    missing = expected.keys() - set(points)
    if missing:
        said.append(f"{len(missing)} of {len(expected)} points are missing, the first is {min(missing)}")
    stored = dict(zip(points, zip(metrics["step"], map(str, map(float, metrics["value"])), strict=True), strict=True))
    wrong = [point for point, what in stored.items() if expected.get(point) != what]
    if wrong:
        said.append(f"{len(wrong)} points are not what was logged, the first is {wrong[0]}: {stored[wrong[0]]}")
    return said
