"""How a reader sleeps until there is something for it: writers ring by name, and only who listens to that name wakes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Bells:
    """Thread safe. A bell is a held lock that a writer releases: the cheapest wake-up Python has (about 20 µs)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listening: dict[str, set[threading.Lock]] = {}

    @contextmanager
    def listen(self, names: Iterable[str]) -> Iterator[threading.Lock]:
        """A bell that rings for any of `names` from now on: look once more, then `bell.acquire(timeout=…)`."""
        bell = threading.Lock()
        bell.acquire()
        names = tuple(names)
        with self._lock:
            for name in names:
                self._listening.setdefault(name, set()).add(bell)
        try:
            yield bell
        finally:
            with self._lock:
                for name in names:
                    self._forget(name, bell)

    def _forget(self, name: str, bell: threading.Lock) -> None:
        listening = self._listening.get(name)
        if listening is not None:
            listening.discard(bell)
            if not listening:
                del self._listening[name]

    def ring(self, names: Iterable[str]) -> None:
        """Wakes who listens to one of `names`."""
        if not self._listening:  # a listener looks once more after it registered, so that missing it here is harmless
            return
        with self._lock:
            for name in names:
                for bell in self._listening.pop(name, ()):
                    if bell.locked():
                        bell.release()

    def ring_all(self) -> None:
        """Wakes everybody."""
        with self._lock:
            names = list(self._listening)
        self.ring(names)
