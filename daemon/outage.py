"""Says once that something is away, and once that it is back, however often it is tried in between."""

from __future__ import annotations

import logging
import re

from ..core.clock import Clock

SETTLE_S = 10.0
"""A try that did not fail shows little when there was nothing to do: only after so long without a failure it is over."""
MOST_KINDS = 5
"""So many different failures of one outage are said."""
NUMBERS = re.compile(r"\d+")


class Outage:
    """One place that may fail again and again. Not thread safe; `now` may be read from any thread: what is wrong, or ""."""

    def __init__(self, log: logging.Logger, name: str, clock: Clock) -> None:
        self._log, self._name, self._clock = log, name, clock
        self._kinds: set[str] = set()
        self._since = self._last = 0.0
        self._count = 0
        self.now = ""

    def met(self, what: str, trace: BaseException | None = None, kind: str = "") -> None:
        """It failed. Said when it is the first time, or another kind of failure: `kind` if given (what is to be done makes a
        good one), else `what` but for its numbers."""
        at = self._clock.monotonic()
        if not self.now:
            self._kinds, self._since, self._count = set(), at, 0
        self.now, self._last, self._count = what, at, self._count + 1
        kind = kind or NUMBERS.sub("#", what)
        if kind not in self._kinds and len(self._kinds) < MOST_KINDS:
            self._kinds.add(kind)
            self._log.warning("%s: %s", self._name, what, exc_info=trace)

    def passed(self, sure: bool) -> None:
        """A try did not fail; `sure`: something was done that shows that it works."""
        if not self.now:
            return
        at = self._clock.monotonic()
        if sure or at - self._last >= SETTLE_S:
            self.now = ""
            self._log.info("%s: goes on; it had failed %d times in %.0f s", self._name, self._count, at - self._since)
