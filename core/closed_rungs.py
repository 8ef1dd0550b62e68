"""The closed rungs of many runs in one place, so that any runs are compared at any rungs by a few array operations.

A row is a run in a group, a page an octave of 32 rungs of a row. Pages are made when a rung on them is closed: a run that
starts at step 10^9 takes as little room as one that starts at 1. Row 0 and page 0 are nobody's and show nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rungs import NONE, OCTAVE
from .window import Floats, Ints

_WIDTH = 64
"""Octaves of the steps there are; the last is never closed, so that rung -1 lies on page 0."""
_SHIFT = OCTAVE.bit_length() - 1
_MASK = OCTAVE - 1


class ClosedRungs:
    """`first` and `last` [rows]: the lowest and highest closed rung of a row (last -1: none); `newest`: the number of the
    last record that closed one; `running` and `finished` are kept by whoever compares."""

    def __init__(self, rows: int = 8) -> None:
        self._pages = np.zeros((rows, _WIDTH), np.int32)
        self._best: Floats = np.full((rows, OCTAVE), np.nan)
        self._seen: Ints = np.zeros((rows, OCTAVE), np.int64)
        self._free_rows = list(range(rows - 1, 0, -1))
        self._free_pages = list(range(rows - 1, 0, -1))
        self.first: Ints = np.zeros(rows, np.int64)
        self.last: Ints = np.full(rows, NONE, np.int64)
        self.newest: Ints = np.zeros(rows, np.int64)
        self.running = np.zeros(rows, np.bool_)
        self.finished = np.zeros(rows, np.bool_)

    def add(self) -> int:
        """A row that has closed nothing."""
        if not self._free_rows:
            rows = len(self.last)
            self._free_rows = list(range(2 * rows - 1, rows - 1, -1))
            self._pages, self.first, self.last = _doubled(self._pages), _doubled(self.first), _doubled(self.last, NONE)
            self.newest, self.running, self.finished = map(_doubled, (self.newest, self.running, self.finished))
        return self._free_rows.pop()

    def remove(self, row: int) -> None:
        """The row is nobody's any more."""
        pages = self._pages[row][self._pages[row] > 0]
        self._best[pages], self._seen[pages], self._pages[row] = np.nan, 0, 0
        self._free_pages += pages.tolist()
        self.first[row], self.last[row], self.newest[row] = 0, NONE, 0
        self._free_rows.append(row)

    def put(self, row: int, start: int, best: Floats, seen: Ints | int) -> None:
        """Closes rungs from `start` on, behind the last: the best until each, and the records that closed them (0: long ago)."""
        begin, end = start, start + len(best)
        if self.last[row] == NONE:
            self.first[row] = start
        self.last[row], self.newest[row] = end - 1, seen if isinstance(seen, int) else seen[-1]
        while begin < end:
            stop = min(end, (begin | _MASK) + 1)
            page, at = self._page(row, begin >> _SHIFT), slice(begin & _MASK, (stop - 1 & _MASK) + 1)
            self._best[page, at] = best[begin - start : stop - start]
            self._seen[page, at] = seen if isinstance(seen, int) else seen[begin - start : stop - start]
            begin = stop

    def reset(self, row: int, rung: int, best: float, seen: int) -> None:
        """Another best until a rung than was known, closed by the record `seen`."""
        page = self._page(row, rung >> _SHIFT)
        self._best[page, rung & _MASK], self._seen[page, rung & _MASK] = best, seen

    def _page(self, row: int, octave: int) -> int:
        page = int(self._pages[row, octave])
        if page == 0:
            if not self._free_pages:
                pages = len(self._best)
                self._free_pages = list(range(2 * pages - 1, pages - 1, -1))
                self._best, self._seen = _doubled(self._best, np.nan), _doubled(self._seen)
            page = self._pages[row, octave] = self._free_pages.pop()
        return page

    def best(self, rows: Ints | int, rungs: Ints | int) -> Floats:
        """The best of each row until each rung, NaN where it is not known; shapes as numpy joins them."""
        rungs = np.maximum(rungs, NONE)
        found: Floats = self._best[self._pages[rows, rungs >> _SHIFT], rungs & _MASK]
        return found

    def reached(self, row: int, rung: int) -> float:
        """`best` of one that is closed."""
        return float(self._best[self._pages[row, rung >> _SHIFT], rung & _MASK])

    def last_before(self, rows: Ints, orders: Ints) -> Ints:
        """The last rung of each row that records before each of `orders` had closed; shapes as numpy joins them."""
        rows, orders = np.broadcast_arrays(rows, orders)
        last: Ints = self.last[rows]
        late = (self.newest[rows] >= orders).nonzero()
        if late[0].size:
            row, order = rows[late], orders[late]
            low, high = self.first[row], last[late] + 1
            start = low.copy()
            while (apart := low < high).any():
                middle = (low + high) >> 1
                before = apart & (self._seen[self._pages[row, middle >> _SHIFT], middle & _MASK] < order)
                low, high = np.where(before, middle + 1, low), np.where(before | ~apart, high, middle)
            last[late] = np.where(low > start, low - 1, NONE)
        return last


def _doubled(column: NDArray[Any], fill: float = 0) -> NDArray[Any]:
    return np.concatenate((column, np.full_like(column, fill)))
