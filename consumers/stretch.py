"""Points gathered between two cuts, series by series, so that a window folds many small chunks at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..core.events import Series
from ..core.window import Floats, Ints

Key = tuple[str, str, str]
"""(attempt, series, source)"""
Gathered = tuple[list[int], tuple[list[int], list[Any], list[float]], Floats, Ints]
"""positions, (steps, values, times), append times, numbers of the records"""


class Stretch:
    """Columns that grow until they are taken."""

    def __init__(self) -> None:
        self._parts: dict[Key, list[tuple[list[int], Series, float, int]]] = {}

    def add(self, key: Key, positions: list[int], points: Series, appended: float, order: int) -> None:
        """Adds the points of one chunk, appended to the log at one time as the `order`-th record."""
        self._parts.setdefault(key, []).append((positions, points, appended, order))

    def take(self) -> Iterator[tuple[Key, Gathered]]:
        """All that was gathered, in the order in which each series first came; afterwards it is empty."""
        parts, self._parts = self._parts, {}
        for key, chunks in parts.items():
            positions, first = chunks[0][:2]
            sizes = [len(one[0]) for one in chunks]
            when = np.repeat([one[2] for one in chunks], sizes)
            orders = np.repeat([one[3] for one in chunks], sizes)
            if len(chunks) == 1:
                yield key, (positions, (first.steps, first.values, first.times), when, orders)
                continue
            steps = [step for one in chunks for step in one[1].steps]
            values = [value for one in chunks for value in one[1].values]
            times = [time for one in chunks for time in one[1].times]
            yield key, ([at for one in chunks for at in one[0]], (steps, values, times), when, orders)
