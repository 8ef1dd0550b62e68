"""The socket that jobs and commands come to, and the lines they open."""

from __future__ import annotations

import os
import resource
import socket
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from ..bus import daemon_socket
from ..core.errors import Unavailable

if TYPE_CHECKING:
    from .edge_stream import Stream

MAX_DESCRIPTORS = 4
BACKLOG = 512
_SENDING = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECEIVING = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_CUT = int(socket.MSG_CTRUNC | socket.MSG_TRUNC)
_LISTENING = int(socket.MSG_DONTWAIT)
_BELL_BYTES = 64


class Peer(NamedTuple):
    """Who is at the other end, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Packet(NamedTuple):
    """What came in one packet. The receiver owns the descriptors. `cut`: some did not arrive."""

    data: bytes
    descriptors: list[int]
    cut: bool

    def drop(self) -> None:
        """Closes the descriptors that nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Line:
    """One open connection. `stream` is set once a job's greeting was taken."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.fd = connection.fileno()
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.peer = Peer(*struct.unpack("3i", told))
        self.stream: Stream | None = None
        self.known = False

    def receive(self) -> Packet | None:
        """The next packet; None when there is none just now. Data is empty at the end of the line."""
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                self.connection, daemon_socket.MAX_PACKET_BYTES, MAX_DESCRIPTORS, _RECEIVING
            )
        except BlockingIOError:
            return None
        except OSError:
            return Packet(b"", [], False)
        return Packet(data, descriptors, bool(flags & _CUT))

    def rings(self) -> bool | None:
        """Whether a bell came; None at the end of the line. Descriptors that come with it are the kernel's to close."""
        try:
            return True if self.connection.recv(_BELL_BYTES, _LISTENING) else None
        except BlockingIOError:
            return False
        except OSError:
            return None

    def say(self, packet: bytes) -> bool:
        """Sends one packet without waiting; whether it went."""
        try:
            self.connection.send(packet, _SENDING)
        except OSError:
            return False
        return True


class Listener:
    """bus.sock, bound in `folder`; the caller holds the folder's lock, so that what lies there is stale."""

    def __init__(self, folder: str, mode: int) -> None:
        self.folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            with daemon_socket.short_path(folder) as path:
                _remove_stale(path, folder)
                self._socket.bind(path)
                os.chmod(path, mode)
            self._socket.listen(BACKLOG)
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise Unavailable(
                f"{folder}/{daemon_socket.SOCKET_NAME} cannot be opened: {error.strerror}",
                "make the data directory writable for the daemon, or choose another with --data-dir",
            ) from error
        except Unavailable:
            self._socket.close()
            raise
        self.fd = self._socket.fileno()

    def accept(self) -> Line | None:
        """The next connection, None if nobody waits."""
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return None
        connection.setblocking(False)
        try:
            return Line(connection)
        except OSError:
            connection.close()
            return None

    def close(self) -> None:
        """Nobody comes any more; the file goes. Idempotent."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        try:
            with daemon_socket.short_path(self.folder) as path:
                os.unlink(path)
        except OSError:
            pass


def _remove_stale(path: str, folder: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Unavailable(
            f"{folder}/{daemon_socket.SOCKET_NAME} is there and is no socket", "move it away, or choose another --data-dir"
        )
    os.unlink(path)


def raise_descriptor_limit() -> int:
    """Three descriptors a run soon pass the usual 1,024; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard
