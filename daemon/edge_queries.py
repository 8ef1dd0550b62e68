"""Questions from the command line, answered on a thread of their own: a slow answer keeps no metric waiting."""

from __future__ import annotations

import logging
import queue
import select
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..bus import daemon_socket
from ..core.errors import SmartTunerError
from .edge_line import Line, Peer

log = logging.getLogger("smarttuner.edge")
Answer = Callable[[dict[str, Any], Peer], dict[str, Any]]
MAX_WAITING = 64
SLOW_CLIENT_S = 5.0


class Queries:
    """Each is answered in the order of their coming."""

    def __init__(self, answer: Answer, counters: Counter[str]) -> None:
        self._answer, self._counters = answer, counters
        self._waiting: queue.Queue[tuple[Line, dict[str, Any]] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="edge-queries", daemon=True)

    def start(self) -> None:
        """From now on questions are answered."""
        self._thread.start()

    def submit(self, line: Line, query: dict[str, Any]) -> None:
        """Takes a question; a daemon with too many of them says so at once."""
        try:
            self._waiting.put_nowait((line, query))
        except queue.Full:
            self._counters["queries_refused"] += 1
            line.say(daemon_socket.packet(refused="too many questions wait", hint="try again in a moment"))

    def stop(self, timeout_s: float) -> None:
        """Ends the thread after the question in hand."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (found := self._waiting.get()) is not None:
            line, query = found
            self._counters["queries"] += 1
            try:
                self._send(line, self._answered(query, line.peer))
            except Exception:  # an answer that cannot be encoded is not the end of all answers
                self._counters["faults"] += 1
                log.exception("a question's fault")

    def _answered(self, query: dict[str, Any], peer: Peer) -> dict[str, Any]:
        try:
            answer = self._answer(query, peer)
            self._counters["queries_refused"] += "refused" in answer
            return answer
        except SmartTunerError as error:
            self._counters["queries_refused"] += 1
            return {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        except Exception as error:  # one question's fault is not the others'
            self._counters["faults"] += 1
            log.exception("a question's fault")
            return {"error": f"the daemon failed to answer: {error}", "hint": "see the daemon's log", "exit_code": 1}

    @staticmethod
    def _send(line: Line, answer: dict[str, Any]) -> None:
        try:
            writable = select.poll()
            writable.register(line.connection, select.POLLOUT)
            for packet in daemon_socket.pieces(answer):
                if not line.say(packet) and not (writable.poll(SLOW_CLIENT_S * 1000) and line.say(packet)):
                    return
        except (OSError, ValueError):  # the client left
            return
