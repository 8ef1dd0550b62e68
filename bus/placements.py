"""Decisions on their way onto the pages of the attempts they are for: what the edge and a job that serves itself share."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict

from ..core.errors import CorruptData
from ..core.events import Ack, Decision, encode, topic_key
from ..core.ports import RUNS, Clock, Message
from .control_page import PageWriter, order_of

MAX_WAITING = 10_000
"""Decisions for attempts that have not come to this process yet."""
MAX_OVER = 10_000


class Placements:
    """The pages that can be written now, and what waits for one. Thread safe: attempts come and go on the thread that reads
    spools, decisions come on the one that follows control."""

    def __init__(self, clock: Clock, counters: Counter[str]) -> None:
        self._clock, self._counters = clock, counters
        self._lock = threading.Lock()
        self._pages: dict[str, PageWriter] = {}
        self._waiting: OrderedDict[str, Decision] = OrderedDict()
        self._over: OrderedDict[str, None] = OrderedDict()

    def arrived(self, attempt: str, fd: int) -> list[Ack]:
        """The attempt's page can be written through `fd` from now on; the refusals of what had waited for it."""
        with self._lock:
            self._over.pop(attempt, None)
            self._pages[attempt] = PageWriter(fd)
            waited = [one for one in self._waiting.values() if one.attempt == attempt]
            for one in waited:
                del self._waiting[one.id]
            return [ack for one in waited if (ack := self._place(one)) is not None]

    def left(self, attempt: str, over: bool) -> list[Ack]:
        """Its descriptor is about to be closed; `over`: it will not come again, and what waits for it is refused."""
        with self._lock:
            self._pages.pop(attempt, None)
            if over:
                self._over[attempt] = None
                if len(self._over) > MAX_OVER:
                    self._over.popitem(last=False)
            waited = [one for one in self._waiting.values() if one.attempt == attempt] if over else []
            for one in waited:
                del self._waiting[one.id]
            return [ack for one in waited if (ack := self._place(one)) is not None]

    def place(self, decision: Decision) -> Ack | None:
        """Writes it where its job will see it, now or when it comes; the refusal if it cannot be."""
        with self._lock:
            return self._place(decision)

    def _place(self, decision: Decision) -> Ack | None:
        now = self._clock.now()
        if decision.not_after < now:
            self._counters["orders_expired"] += 1
            return None
        if decision.attempt in self._over:
            return self._refusal(decision, "attempt is over", now)
        page = self._pages.get(decision.attempt)
        if page is None:
            self._waiting[decision.id] = decision
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popitem(last=False)
                self._counters["orders_forgotten"] += 1
            return None
        try:
            placed = page.place(order_of(decision), now)
        except (OSError, CorruptData) as error:
            return self._refusal(decision, f"its spool cannot be written: {error}", now)
        if placed.refusal:
            return self._refusal(decision, placed.refusal, now)
        self._counters["orders_placed"] += 1
        return None

    def _refusal(self, decision: Decision, reason: str, now: float) -> Ack:
        self._counters["orders_refused"] += 1
        return Ack(decision.id, decision.run, decision.attempt, "refused", now, group=decision.group, reason=reason, by="edge")


def ack_message(ack: Ack, mark: tuple[str, int] | None = None) -> Message:
    """The refusal as it goes to `runs`."""
    return Message(RUNS, topic_key(ack.run, ack.group), encode(ack), (), mark)
