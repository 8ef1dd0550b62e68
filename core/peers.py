"""What is known of the other runs of a group, at the moments at which runs of it close a rung (core/rungs.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .closed_rungs import ClosedRungs
from .window import Floats, Ints

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Peers:
    """k moments, and up to P other runs as each moment saw them. Values are turned so that less is better.

    `points` [k]: the points (of the columns) that closed a rung; `rung` [k]: the highest rung each closed. `last` [P, k]: the
    highest rung that the log had shown of the peer before the point, -1 for none; `running` [P, k]: whether the peer went on
    then; `finished` [P, k] or [P, 1]: whether it has ended by itself. `total_steps` ([k], or one number): how long the job
    said it would be, or NaN. `runs` and `states` [P]: the peers' names, and running, finished, pruned, failed or lost, where
    the moments are those of one run; a screen over many series has none, and nobody (`last` -1) where a run has fewer peers.
    """

    points: Ints
    rung: Ints
    runs: list[str]
    states: list[str]
    last: Ints
    running: Flags
    finished: Flags
    total_steps: float | Floats
    _start: int | Ints
    _curves: Floats
    _begins: int | Ints
    """Where in the curves that of each moment's run begins, and at which rung."""
    _rows: Ints
    _closed: ClosedRungs

    def __len__(self) -> int:
        return len(self.points)

    @property
    def reached(self) -> Flags:
        """[P, k]: whether the peer had closed the very rung."""
        mask: Flags = self.last >= self.rung
        return mask

    def own(self, rungs: Ints | None = None) -> Floats:
        """[..., k]: the run's own best until each of `rungs` [..., k] (those it closed, if not given); NaN before its first."""
        at = (self.rung if rungs is None else np.minimum(rungs, self.rung)) - self._start
        found: Floats = np.where(at >= 0, self._curves[self._begins + np.maximum(at, 0)], np.nan)
        return found

    def at(self, rungs: Ints | None = None) -> Floats:
        """[..., P, k]: each peer's best until `rungs` [k] or [..., 1, k] (the run's own, if not given), or until the last rung
        that was known of it where it had not come so far; NaN where nothing was known."""
        return self._closed.best(self._rows, np.minimum(self.rung if rungs is None else rungs, self.last))

    def moment(self, point: int) -> Peers | None:
        """The one moment (k = 1) of a point of one run's columns; None for a point that closed no rung."""
        k = int(np.searchsorted(self.points, point))
        if k == len(self.points) or self.points[k] != point:
            return None
        one = slice(k, k + 1)
        return replace(self, points=self.points[one], rung=self.rung[one], last=self.last[:, one], running=self.running[:, one])
