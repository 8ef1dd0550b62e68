"""The daemon's unix socket: where it is, how it is reached, and the packets that pass.

SOCK_SEQPACKET at `bus.sock` in the data directory. A client's first packet is a JSON object with `v` and either `kind`
"hello" (a job, its spool's descriptor and a pidfd beside it), "leftover" (a dead job's spool) or `query`. A job is answered
by one packet (the welcome, or `refused` and `hint`) and from then on sends single bytes: bells. A query is answered by
packets {"v":1,"more":bool,"data":text}: the joined texts are the answer's JSON.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec

PROTOCOL = 1
SOCKET_NAME = "bus.sock"
MAX_PACKET_BYTES = 64 << 10
_PIECE_CHARACTERS = 24 << 10
"""Of an answer's JSON text: even when every character is escaped to 2 bytes the packet stays under its limit."""

GONE = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)
"""What a connect raises where no daemon listens."""


@contextlib.contextmanager
def short_path(folder: str, name: str = SOCKET_NAME) -> Iterator[str]:
    """A path of the socket that fits the 107 bytes of sockaddr_un however long `folder` is."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def dial(folder: str) -> socket.socket:
    """A connected, non-blocking socket to the daemon of that data directory; OSError (see GONE) if there is none."""
    dialled = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    dialled.setblocking(False)
    try:
        with short_path(folder) as path:
            dialled.connect(path)
    except BaseException:
        dialled.close()
        raise
    return dialled


def packet(**fields: Any) -> bytes:
    """One packet of this protocol."""
    return msgspec.json.encode({"v": PROTOCOL, **fields})


def unpack(data: bytes) -> dict[str, Any] | None:
    """The object in a packet, None for bytes that hold none."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def pieces(answer: dict[str, Any]) -> Iterator[bytes]:
    """The packets of an answer."""
    text = msgspec.json.encode(answer).decode()
    for start in range(0, len(text), _PIECE_CHARACTERS):
        end = start + _PIECE_CHARACTERS
        yield packet(more=end < len(text), data=text[start:end])
