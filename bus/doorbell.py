"""The job's line to its host's daemon: it hands the spool over, and rings when the daemon sleeps.

The bell is sent without giving up the GIL, which `socket.send` does: a busy thread beside the training loop then holds it for
milliseconds (5.2 ms p50 instead of 0.056 ms).
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Mapping
from typing import Any

from ..core.clock import Clock, SystemClock
from ..core.errors import Unavailable
from . import daemon_socket
from .descriptors import bears, in_children, mark_of
from .ring import send_byte
from .spool import Spool

CHECK_INTERVAL_S = 1.0
WELCOME_WAIT_S = 2.0
REFUSED_INTERVAL_S = 30.0
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Doorbell:
    """One attempt's connection. Not thread safe but for `ring_if_armed`; inert in the child of a fork. `finish_wait_s`: so long a
    job's end waits for a daemon to take all."""

    finish_wait_s = 2.0

    def __init__(self, address: str, spool: Spool, hello: Mapping[str, Any], clock: Clock | None = None) -> None:
        self.address = address
        self.welcome: dict[str, Any] = {}
        self.refused = ""
        self._spool = spool
        self._hello = dict(hello)
        self._clock: Clock = clock or SystemClock()
        self._socket: socket.socket | None = None
        self._fd = -1
        self._mark = (0, 0)
        self._next_check = 0.0
        self._open = True
        in_children(self, Doorbell.close)

    @classmethod
    def connect(cls, address: str, spool: Spool, hello: Mapping[str, Any], clock: Clock | None = None) -> Doorbell | None:
        """Hands `spool` to the daemon of data directory `address`; None if nobody listens there. `hello` is told with it
        (SDK version, mode, …). Waits at most 2 s for the welcome, which a busy daemon may send later. Unavailable with the
        daemon's reason if it refuses, or if the socket may not be used."""
        bell = cls(address, spool, hello, clock)
        try:
            bell._dial()
        except (*daemon_socket.GONE, BlockingIOError):
            return None
        except OSError as error:
            raise Unavailable(
                f"the daemon's socket in {address} cannot be used: {error.strerror}", "look at the folder's owner and permissions"
            ) from error
        assert bell._socket is not None
        readable = select.poll()
        readable.register(bell._socket, select.POLLIN)
        if readable.poll(WELCOME_WAIT_S * 1000):
            bell._listen()
        if bell.refused:
            reason, hint = bell.refused, str(bell.welcome.get("hint", ""))
            bell.close()
            raise Unavailable(f"the daemon refuses this job: {reason}", hint)
        bell._next_check = bell._clock.monotonic() + CHECK_INTERVAL_S
        return bell

    @property
    def connected(self) -> bool:
        """Whether a daemon holds the other end."""
        return self._socket is not None

    def ring_if_armed(self) -> None:
        """One byte to a daemon that sleeps; a hint, which may be lost."""
        if self._spool.armed:
            self.ring()

    def ring(self) -> None:
        """The byte, for who has seen that the spool is armed."""
        if self._fd >= 0 and bears(self._fd, self._mark):
            send_byte(self._fd)

    def check(self) -> None:
        """Notices a dead daemon and hands the same descriptors to the next one. Does nothing more often than once a
        second, never waits, never raises."""
        now = self._clock.monotonic()
        if now < self._next_check or not self._open:
            return
        self._next_check = now + CHECK_INTERVAL_S
        try:
            if self._socket is not None and bears(self._fd, self._mark):
                self._listen()
            elif self._socket is not None:
                self._hang_up()
            if self._socket is None:
                if self.refused:
                    self.refused = ""
                    self._next_check = now + REFUSED_INTERVAL_S
                    return
                self._dial()
        except OSError:
            self._hang_up()

    def close(self) -> None:
        """Hangs up. Idempotent."""
        self._open = False
        self._hang_up()

    def _dial(self) -> None:
        spool = self._spool
        if not bears(spool.fd, spool.mark):
            raise OSError(errno.EBADF, "the job has closed the spool's descriptor")
        self._socket = daemon_socket.dial(self.address)
        self._fd = self._socket.fileno()
        self._mark = mark_of(self._fd)
        descriptors = [spool.fd]
        try:
            descriptors.append(os.pidfd_open(os.getpid()))
        except OSError:  # a kernel before 5.3 or a sandbox: the socket alone says when this process died
            pass
        try:
            greeting = daemon_socket.packet(
                **self._hello,
                kind="hello",
                run=spool.run,
                attempt=spool.attempt,
                bytes=spool.size,
                pidfd=len(descriptors) > 1,
            )
            socket.send_fds(self._socket, [greeting], descriptors, _FLAGS)
        except OSError:
            self._hang_up()
            raise
        finally:
            for fd in descriptors[1:]:
                os.close(fd)

    def _listen(self) -> None:
        """Takes what the daemon sent: the welcome, a refusal, or its end."""
        assert self._socket is not None
        try:
            data = self._socket.recv(daemon_socket.MAX_PACKET_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        said = daemon_socket.unpack(data)
        if said is None:
            return
        self.welcome = said
        if "refused" in said:
            self.refused = str(said["refused"])
            self._hang_up()

    def _hang_up(self) -> None:
        fd, self._fd = self._fd, -1
        if self._socket is not None:
            if bears(fd, self._mark):
                self._socket.close()
            else:
                self._socket.detach()
            self._socket = None


def hand_over_leftover(address: str, path: str) -> bool:
    """Gives a dead job's spool to the daemon that serves this user now (one that cannot open the user's folder itself);
    whether it took it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        with daemon_socket.dial(address) as line:
            greeting = daemon_socket.packet(kind="leftover", bytes=os.fstat(fd).st_size)
            socket.send_fds(line, [greeting], [fd], _FLAGS)
            readable = select.poll()
            readable.register(line, select.POLLIN)
            if not readable.poll(WELCOME_WAIT_S * 1000):
                return False
            said = daemon_socket.unpack(line.recv(daemon_socket.MAX_PACKET_BYTES, socket.MSG_DONTWAIT))
            return said is not None and "refused" not in said
    except OSError:
        return False
    finally:
        os.close(fd)
