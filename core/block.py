"""Windows that are judged alike, folded together: what each of their points left known, by array operations over series.

The same points give the same figures as Window.extend gives one by one; a property test holds that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .peers import Peers
from .window import TAIL, Columns, Evidence, Floats, Ints, Latest, Measure, Window, folds_many

Figures = dict[str, Mapping[str, NDArray[Any]]]


class Points(NamedTuple):
    """Columns of points of many series."""

    positions: Ints
    steps: Ints
    values: Floats
    times: Floats
    appended: Floats
    orders: Ints

    def at(self, which: Any) -> Points:
        """Some of them, as numpy indexes them."""
        return Points(
            self.positions[which],
            self.steps[which],
            self.values[which],
            self.times[which],
            self.appended[which],
            self.orders[which],
        )

    def shaped(self, shape: tuple[int, int]) -> Points:
        """All of them as rows and columns."""
        return Points(
            self.positions.reshape(shape),
            self.steps.reshape(shape),
            self.values.reshape(shape),
            self.times.reshape(shape),
            self.appended.reshape(shape),
            self.orders.reshape(shape),
        )


@dataclass(frozen=True)
class Screened(Columns):
    """The points of a block as policies screen them: one series after the other."""

    block: Block | None = None

    def evidence(self, i: int) -> Evidence:
        """What was known right after point i of the columns; nothing of peers."""
        assert self.block is not None
        row = int(self.block.rows(np.array(i)))
        return self.block.columns(row).evidence(i - self.block.begin(row))


class Block:
    """m windows of one kind, and new points of each that advance: those of row i are [starts[i], starts[i] + sizes[i]) of
    `points`. Folds them at once; `keep` puts them into the windows, after which `columns` can no longer be asked for."""

    def __init__(self, windows: Sequence[Window], sources: Sequence[str], points: Points, starts: Ints, sizes: Ints) -> None:
        self.windows, self.sources = windows, sources
        self.sizes = sizes
        self._ends = sizes - 1
        self._n = int(sizes.max())
        self._full = bool((sizes == self._n).all())
        if self._full and bool((np.diff(starts) == self._n).all()):  # they stand side by side: views
            begin, shape = int(starts[0]), (len(windows), self._n)
            self.points = points.at(slice(begin, begin + self._n * len(windows))).shaped(shape)
        else:
            self.points = points.at(starts[:, None] + np.minimum(np.arange(self._n), self._ends[:, None]))
        self.figures: Figures = {key: self._fold(key) for key in windows[0].measures}
        self._begins = np.concatenate(([0], np.cumsum(sizes)))

    def _fold(self, key: str) -> Mapping[str, NDArray[Any]]:
        many: list[Measure] = [window.measures[key] for window in self.windows]
        steps, values = self.points.steps, self.points.values
        like = many[0]
        if folds_many(like):
            return like.fold_many(many, steps, values, self._ends)
        each = [one.fold(steps[i, :n], values[i, :n]) for i, (one, n) in enumerate(zip(many, self.sizes.tolist(), strict=True))]
        found = {name: np.zeros((len(many), self._n), column.dtype) for name, column in each[0].items()}
        for i, columns in enumerate(each):
            for name, column in columns.items():
                found[name][i, : len(column)] = column
        return found

    def flat(self, column: NDArray[Any]) -> NDArray[Any]:
        """The points' part of an array [m, n], one row after the other."""
        if self._full:
            return column.reshape(-1)
        return column[np.arange(self._n) < self.sizes[:, None]]

    def rows(self, points: Ints) -> Ints:
        """In which rows these of all points stand."""
        return np.searchsorted(self._begins, points, side="right") - 1

    def begin(self, row: int) -> int:
        """The number of a row's first point among all."""
        return int(self._begins[row])

    def screened(self, peers: Peers | None) -> Screened:
        """What policies screen."""
        points = self.points.at(np.arange(self._n) < self.sizes[:, None])
        figures = {key: {name: self.flat(column) for name, column in named.items()} for key, named in self.figures.items()}
        tail = (points.steps, points.values)
        return Screened(self.windows[0].subject, self.sources[0], *points, figures, *tail, peers=peers, block=self)

    def columns(self, row: int) -> Columns:
        """What Window.extend would have given for the points of a row."""
        n, window = int(self.sizes[row]), self.windows[row]
        points = self.points.at((row, slice(n)))
        figures = {key: {name: column[row, :n] for name, column in named.items()} for key, named in self.figures.items()}
        steps, values = window.recent()
        tail = (np.concatenate((steps, points.steps)), np.concatenate((values, points.values)))
        return Columns(window.subject, self.sources[row], *points, figures, *tail)

    @classmethod
    def taken(
        cls, windows: Sequence[Window], sources: Sequence[str], points: Points, figures: Sequence[Mapping[str, Any]]
    ) -> Block:
        """The last point of each window, [m], which has taken it in already, and what it knew right after."""
        return _Taken(windows, sources, points, figures)

    def keep(self) -> None:
        """The windows have taken the points in."""
        rows, ends = np.arange(len(self.windows)), self._ends
        figures = {key: {name: column[rows, ends] for name, column in named.items()} for key, named in self.figures.items()}
        last = [column[rows, ends].tolist() for column in self.points[:4]]
        steps, values = self.points.steps.tobytes(), self.points.values.tobytes()
        sizes = self.sizes.tolist()
        each = zip(self.windows, self.sources, sizes, *last, strict=True)
        for row, (window, source, n, position, step, value, time) in enumerate(each):
            window.last[source] = position
            window.last_step = step
            window.points += n
            part = slice(8 * (row * self._n + max(0, n - TAIL)), 8 * (row * self._n + n))
            window.keep(steps[part], values[part], Latest(step, value, time, figures, row))


class _Taken(Block):
    """A block of points that were taken in one by one."""

    def __init__(
        self, windows: Sequence[Window], sources: Sequence[str], points: Points, figures: Sequence[Mapping[str, Any]]
    ) -> None:
        m = len(windows)
        self.windows, self.sources = windows, sources
        self.sizes, self._ends = np.ones(m, np.int64), np.zeros(m, np.int64)
        self._n, self._full, self._begins = 1, True, np.arange(m + 1)
        self.points = points.shaped((m, 1))
        self.figures = {
            key: {name: np.array([[one[key][name]] for one in figures]) for name in named} for key, named in figures[0].items()
        }

    def columns(self, row: int) -> Columns:
        points = self.points
        place = int(points.positions[row, 0]), float(points.appended[row, 0]), int(points.orders[row, 0])
        return self.windows[row].alone(self.sources[row], *place)

    def keep(self) -> None:
        """They have."""
