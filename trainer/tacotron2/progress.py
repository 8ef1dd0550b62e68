"""What a person sees of a training on stderr: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from ...core.clock import Clock, SystemClock

BAR_WIDTH = 24
ON_TERMINAL_S, ELSEWHERE_S = 0.2, 15.0


class Progress:
    """Steps done of `total`, speed, time left and the last values."""

    def __init__(self, total: int, first: int = 0, out: TextIO | None = None, clock: Clock | None = None) -> None:
        self._total, self._first, self._out = total, first, out or sys.stderr
        self._clock: Clock = clock or SystemClock()
        self._started = self._clock.monotonic()
        self._said = self._started
        self._terminal = self._out.isatty()

    def show(self, step: int, values: Mapping[str, float], at_once: bool = False) -> None:
        """After `step`; says something only as often as a person can read."""
        now = self._clock.monotonic()
        every = ON_TERMINAL_S if self._terminal else ELSEWHERE_S
        if not at_once and now - self._said < every:
            return
        self._said = now
        line = self._line(step, now, values)
        print(f"\r\x1b[2K{line}" if self._terminal else line, end="" if self._terminal else "\n", file=self._out, flush=True)

    def tell(self, text: str) -> None:
        """A line that stays."""
        print(f"\r\x1b[2K{text}" if self._terminal else text, file=self._out, flush=True)

    def end(self) -> None:
        """Leaves the bar's line."""
        if self._terminal:
            print(file=self._out, flush=True)

    def _line(self, step: int, now: float, values: Mapping[str, float]) -> str:
        speed = (step - self._first) / max(now - self._started, 1e-9)
        left = (self._total - step) / speed if speed > 0 else 0.0
        filled = round(BAR_WIDTH * step / max(self._total, 1))
        bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] " if self._terminal else ""
        said = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        return f"{bar}step {step}/{self._total}  {speed:.2f} steps/s  {clock_time(left)} left  {said}"


def clock_time(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock_time(75), clock_time(3675)
    ('1:15', '1:01:15')
    """
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
