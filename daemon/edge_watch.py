"""What the edge's one thread waits for: descriptors and points in time. A fault in one act is counted, never fatal."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
from collections import Counter
from collections.abc import Callable

from ..core.ports import Clock

log = logging.getLogger("smarttuner.edge")
Act = Callable[[], None]


class Watch:
    """Acts run on the thread that calls `step`; `wake` and nothing else may be called from another."""

    def __init__(self, clock: Clock, counters: Counter[str]) -> None:
        self._clock, self._counters = clock, counters
        self._epoll = select.epoll()
        self._acts: dict[int, Act] = {}
        self._due: list[tuple[float, int, Act]] = []
        self._numbers = itertools.count()
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._alarm, self._hush)

    def watch(self, fd: int, act: Act) -> None:
        """Runs `act` whenever `fd` is readable or hung up."""
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
        self._acts[fd] = act

    def forget(self, fd: int) -> None:
        """No more of `fd`, which is about to be closed."""
        if self._acts.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def at(self, due: float, act: Act) -> None:
        """Runs `act` once when the monotonic clock has reached `due`."""
        heapq.heappush(self._due, (due, next(self._numbers), act))

    def step(self, timeout_s: float) -> None:
        """Waits up to `timeout_s` for something to do, and does all that is to be done."""
        if self._due:
            timeout_s = max(0.0, min(timeout_s, self._due[0][0] - self._clock.monotonic()))
        for fd, _ in self._epoll.poll(timeout_s):
            act = self._acts.get(fd)
            if act is not None:
                self._run(act)
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            self._run(heapq.heappop(self._due)[2])

    def wake(self) -> None:
        """Ends a wait. For other threads."""
        os.eventfd_write(self._alarm, 1)

    def close(self) -> None:
        """Lets go of all descriptors of its own."""
        self._epoll.close()
        os.close(self._alarm)

    def _run(self, act: Act) -> None:
        try:
            act()
        except Exception:  # one connection's fault is not the others'
            self._counters["faults"] += 1
            log.exception("a connection's fault")

    def _hush(self) -> None:
        os.eventfd_read(self._alarm)
