"""What is known of the other runs of a group, at the moments at which one of its runs closes a rung (core/rungs.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .window import Floats, Ints


@dataclass(frozen=True)
class Peers:
    """k moments of one run, and P other runs as each moment saw them. Values are turned so that less is better.

    `points` [k]: the points (of the columns) that closed a rung; `rung` [k]: the highest rung each closed. `runs` and
    `states` [P]: the peers' names, and running, finished, pruned, failed or lost. `last` [P, k]: the highest rung that the
    log had shown of the peer before the point, -1 for none; `running` [P, k]: whether the peer went on then.
    `total_steps`: how long the job said it would be, or NaN.
    """

    points: Ints
    rung: Ints
    runs: list[str]
    states: list[str]
    last: Ints
    running: NDArray[np.bool_]
    total_steps: float
    _start: int
    _curve: Floats
    _rows: Ints
    _best: Floats

    def __len__(self) -> int:
        return len(self.points)

    @property
    def reached(self) -> NDArray[np.bool_]:
        """[P, k]: whether the peer had closed the very rung."""
        mask: NDArray[np.bool_] = self.last >= self.rung
        return mask

    def own(self, rungs: Ints | None = None) -> Floats:
        """[..., k]: the run's own best until each of `rungs` [..., k] (those it closed, if not given); NaN before its first."""
        at = (self.rung if rungs is None else np.minimum(rungs, self.rung)) - self._start
        found: Floats = np.where(at >= 0, self._curve[np.clip(at, 0, None)], np.nan)
        return found

    def at(self, rungs: Ints | None = None) -> Floats:
        """[..., P, k]: each peer's best until `rungs` [k] or [..., 1, k] (the run's own, if not given), or until the last rung
        that was known of it where it had not come so far; NaN where nothing was known."""
        wanted = np.minimum(self.rung if rungs is None else rungs, self.last)
        found: Floats = np.where(wanted >= 0, self._best[self._rows[:, None], np.clip(wanted, 0, None)], np.nan)
        return found

    def moment(self, point: int) -> Peers | None:
        """The one moment (k = 1) of a point of the columns; None for a point that closed no rung."""
        k = int(np.searchsorted(self.points, point))
        if k == len(self.points) or self.points[k] != point:
            return None
        one = slice(k, k + 1)
        return replace(self, points=self.points[one], rung=self.rung[one], last=self.last[:, one], running=self.running[:, one])
