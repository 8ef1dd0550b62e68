"""The edge's eye on jobs that are silent: it tells on the log what it sees of their processes."""

from __future__ import annotations

from collections import Counter

from ..bus.vigil import FIRST_S, Vigil, note, process_of
from ..core.errors import Unavailable
from ..core.ports import Bus, Clock
from .edge_stream import Stream


class Vigils:
    """Belongs to the edge's thread. `first_s`: a silence is told of from here on. What finds no place on the bus is told later."""

    def __init__(self, bus: Bus, clock: Clock, counters: Counter[str], first_s: float = FIRST_S) -> None:
        self._bus, self._clock, self._counters, self._first_s = bus, clock, counters, first_s

    def look(self, stream: Stream, is_shipping: bool) -> None:
        """About once a second and stream; who has said goodbye, or cannot be heard, is not silent."""
        vigil = stream.vigil = stream.vigil or Vigil(self._first_s)
        waits = stream.ending or stream.shipper.ended or stream.behind or not is_shipping
        mark = None if waits else stream.reader.position
        watched = vigil.look(mark, self._clock.monotonic(), lambda: process_of(stream, stream.pidfd))
        if watched is None:
            return
        try:
            self._bus.publish([note(stream, watched, self._clock.now())])
            self._counters["silences_watched"] += 1
        except Unavailable:
            self._counters["silences_untold"] += 1
