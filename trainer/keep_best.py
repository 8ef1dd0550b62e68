"""The best weights, caught in the job: a message about the best evaluation arrives when the weights have moved on.

They lie in memory, or on disk where they would take more than half of what is free there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..core.best import Best
from ..core.clock import Clock
from ..core.errors import Forbidden, Unavailable
from ..core.events import Goal
from .hidden import remove
from .parts import load_into, on_cpu, size_bytes, state_of

MOST_SERIES = 4
MOST_OF_MEMORY = 0.5


class Snapshot(NamedTuple):
    """Weights on the CPU, or the file that holds them, of the moment when `series` was `value` at `step`."""

    series: str
    step: int
    value: float
    weights: Any


class KeepBest:
    """Keeps the model's weights of the best point of each watched series; gone with the process. `put_aside(state, number)`
    writes them into a file where memory is short.

    `series` are those whose best is kept. Optimizer moments are not kept: they would cost twice the memory and the pause
    of the weights themselves.
    """

    def __init__(
        self, model: Any, clock: Clock, interval_s: float = 0.0, put_aside: Callable[[Any, int], Path] | None = None
    ) -> None:
        self.model = model
        self.series: tuple[str, ...] = ()
        self.interval_s = interval_s
        self._clock = clock
        self._put_aside = put_aside
        self._asked: dict[str, tuple[Goal, float, float | None, int | None]] = {}
        self._copies = 0
        self._best: dict[str, Best] = {}
        self._kept: dict[str, Snapshot] = {}
        self._taken_at: dict[str, float] = {}

    def ask(self, series: str, goal: Goal) -> None:
        """Keeps the best of `series`, once there is a model."""
        self._asked[series] = goal, 0.0, None, None
        self.take(self.model)

    def take(self, model: Any) -> None:
        """Keeps this model from now on, by every series that was asked for; weights of another one are forgotten."""
        if model is not self.model:
            kept, self._kept = self._kept, {}
            for snapshot in kept.values():
                self._drop(snapshot)
        self.model = model
        if model is not None:
            asked, self._asked = self._asked, {}
            for series, how in asked.items():
                self.start(series, *how)

    def start(
        self, series: str, goal: Goal, min_delta: float = 0.0, best: float | None = None, step: int | None = None
    ) -> str | None:
        """Keeps from now on what beats `best` (of `step`) by more than `min_delta`; said again, it changes nothing.
        Returns what is already kept, in words, or None."""
        if self.model is None:
            if len(self._asked) < MOST_SERIES:
                self._asked[series] = goal, min_delta, best, step
            raise Forbidden("no model was given", "pass model= to attach, or to run.steer later")
        known = self._best.get(series)
        if known is None and len(self._best) >= MOST_SERIES:
            raise Forbidden(f"the best of {MOST_SERIES} series is kept already", "watch fewer series")
        if known is None or (known.goal, known.min_delta) != (goal, min_delta):
            if best is None and known is not None and known.goal == goal:
                best, step = known.best, known.step
            self._best[series] = Best(goal, min_delta, best, step)
            self.series = tuple(self._best)
        kept = self._kept.get(series)
        return f"step {kept.step}" if kept else None

    def offer(self, step: int, values: Mapping[str, float]) -> list[str]:
        """The values measured at `step`, while the weights are still those that were measured. Returns the series of
        which this is the new best and has been kept; Unavailable where memory does not allow it."""
        fresh = [name for name, best in self._best.items() if name in values and best.offer(step, values[name]) and self._due(name)]
        if fresh:
            weights = self._copy()
            for name in fresh:
                before = self._kept.get(name)
                self._kept[name] = Snapshot(name, step, values[name], weights)
                self._taken_at[name] = self._clock.monotonic()
                self._drop(before)
        return fresh

    def _due(self, series: str) -> bool:
        taken = self._taken_at.get(series)
        return taken is None or self._clock.monotonic() - taken >= self.interval_s

    def restore(self, series: str | None = None) -> Snapshot:
        """Puts the kept weights of `series` (or of the only one) back; Unavailable where none are kept."""
        snapshot = self.kept(series)
        load_into(self.model, _loaded(snapshot.weights))
        self.new_segment()
        return snapshot

    def new_segment(self) -> None:
        """Weights were put back: the job's steps may begin again from an earlier one; what is best stays."""
        for best in self._best.values():
            best.new_segment()

    def kept(self, series: str | None = None) -> Snapshot:
        """The snapshot of `series`, or of the series watched first of which there is one; Unavailable where there is none."""
        name = series or next((one for one in self._best if one in self._kept), None)
        if name is None or name not in self._kept:
            watched = ", ".join(self._best) or "nothing"
            raise Unavailable(f"no best weights are kept yet (watched: {watched})", "pass model=, monitor= and goal= to attach")
        return self._kept[name]

    def forget(self) -> None:
        """Gives the memory back."""
        self.series = ()
        self._best.clear()
        kept, self._kept = self._kept, {}
        for snapshot in kept.values():
            self._drop(snapshot)

    def _drop(self, snapshot: Snapshot | None) -> None:
        path = snapshot.weights if snapshot is not None else None
        if isinstance(path, Path) and all(one.weights != path for one in self._kept.values() if isinstance(one.weights, Path)):
            remove(path)

    def _copy(self) -> Any:
        state = state_of(self.model)
        need, free = size_bytes(state), _available_bytes()
        if free is not None and need > free * MOST_OF_MEMORY:
            if self._put_aside is not None:
                self._copies += 1
                return self._put_aside(state, self._copies)
            raise Unavailable(
                f"best weights need {need / 1e6:.0f} MB, {free / 1e6:.0f} MB of memory are free", "free memory, or leave model= out"
            )
        return on_cpu(state)


def _loaded(weights: Any) -> Any:
    if not isinstance(weights, Path):
        return weights
    import torch

    return torch.load(weights, map_location="cpu", weights_only=True)


def _available_bytes() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
