"""Kafka without a daemon on this host: the job ships by itself until a daemon comes, and again when it has gone.

Never both: the spool goes to a daemon only after our own threads have let go of it, and they take it back some seconds after the
daemon has left. A daemon keeps the broker's credentials to itself and is the better way wherever there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..bus import daemon_socket
from ..bus.doorbell import Doorbell
from ..bus.spool import Spool
from ..core.clock import Clock
from ..core.errors import ConfigError
from .shipping import Log, Route, Shipping
from .voice import Voice

SCHEME = "kafka://"
TAKE_OVER_S = 10.0
"""So long a daemon that went may stay away: it may just be started anew."""
PROBE_S = 5.0
SHUN_S = 60.0
"""A daemon that refused this job is left alone for so long."""
FINISH_WAIT_S = 5.0
CLOSE_S = 1.0


class Direct:
    """Stands where the Doorbell stands: the same questions, asked by the training thread, none of which waits."""

    finish_wait_s = FINISH_WAIT_S

    def __init__(self, bell: Doorbell, spool: Spool, route: Route, clock: Clock, voice: Voice) -> None:
        self._bell, self._spool, self._route, self._clock, self._voice = bell, spool, route, clock, voice
        self._shipping: Shipping | None = None
        self._served = bell.connected
        self._alone_since = clock.monotonic() - TAKE_OVER_S
        self._probe_at = 0.0
        self._leaving = False
        if not bell.connected:
            self._ship()

    @property
    def connected(self) -> bool:
        """Whether somebody takes what is written."""
        shipping = self._shipping
        return self._bell.connected or (shipping is not None and not shipping.stopped and not shipping.hopeless)

    @property
    def welcome(self) -> dict[str, Any]:
        """What the daemon said, where there is one."""
        return self._bell.welcome

    def ring_if_armed(self) -> None:
        """Wakes whoever reads the spool, if it sleeps."""
        if self._spool.armed:
            self.ring()

    def ring(self) -> None:
        """For who has seen that the spool is armed."""
        if self._shipping is not None:
            self._shipping.ring()
        else:
            self._bell.ring()

    def check(self) -> None:
        """About once a second: who ships from here on. Never waits."""
        now = self._clock.monotonic()
        if self._shipping is None:
            self._look_for_a_daemon(now)
        elif self._leaving:
            if self._shipping.stopped:
                self._shipping, self._leaving = None, False
                self._alone_since = now
                self._bell.check()
        elif now >= self._probe_at:
            self._probe_at = now + PROBE_S
            if self._daemon_listens():
                self._leaving = True
                self._shipping.ask_to_stop()

    def _look_for_a_daemon(self, now: float) -> None:
        self._bell.check()
        if self._bell.connected:
            self._served = True
            return
        if self._served:
            self._served, self._alone_since = False, now
        refused = bool(self._bell.refused)
        if refused:
            self._voice.once("refused", f"the daemon here refuses this job ({self._bell.refused}): it ships by itself")
            self._probe_at = now + SHUN_S
        if refused or now - self._alone_since >= TAKE_OVER_S:
            self._ship()

    def _ship(self) -> None:
        self._shipping = Shipping(self._spool, self._route, self._clock, self._voice)
        self._shipping.start()

    def _daemon_listens(self) -> bool:
        try:
            daemon_socket.dial(self._bell.address).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Hangs up, and stops shipping. Idempotent."""
        self._bell.close()
        if self._shipping is not None:
            self._shipping.close(CLOSE_S)


def kafka_route(address: str, options: Mapping[str, str], folder: str, clock: Clock, opened: Callable[[], object]) -> Route:
    """The way to the brokers of `address` (kafka://…); kafka-python is imported when it is first gone."""

    def open_log() -> Log:
        try:
            from ..bus.kafka_guest import guest_log
        except ModuleNotFoundError as error:
            raise ConfigError(f"{error.name} is not installed here", "pip install 'smart-tuner[kafka]'") from error
        return guest_log(address, options, clock)

    return Route(address, open_log, (folder,), opened)
