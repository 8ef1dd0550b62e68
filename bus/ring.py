"""What the writer of a spool counts with. Compiled (_ring.c) where it could be, so that the usual call of log(), compiled as well
(trainer/calm_log.c), finds it; else as it stands here."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any


class PlainRing:
    """`_head`: bytes ever written, which begin at byte `_head - _shift` of the file; `_limit`: how far they may go before the room
    is looked at again; `next_position`: of the next point; `_parts`: how records with the names of the last call are packed (a
    Shape's fields). `_open`: anything is taken; `_busy`: somebody holds the lock and works with these; `_owing`: something was left
    that comes first."""

    __slots__ = ("_busy", "_head", "_limit", "_open", "_owing", "_parts", "_shift", "next_position")

    _head: int
    _limit: int
    _open: bool
    _busy: bool
    _owing: bool
    _parts: tuple[Any, ...]
    _shift: int
    next_position: int

    def _map(self, memory: memoryview, head_at: int, armed_at: int, control_at: int, ring_at: int) -> None:
        """The mapped file, and where in it the head, the bell's word, the control page's revision and the ring lie: for who writes
        without asking Python."""

    def _unmap(self) -> None:
        """The file is about to be closed."""


def sends_through_ctypes() -> Callable[[int], object]:
    """One byte to a socket, without waiting and without giving up the GIL."""
    import ctypes

    send = ctypes.PyDLL(None).send
    send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    return lambda fd: send(fd, b"\1", 1, flags)


FORM = 2
"""Of what is compiled, as ring.h says: files left from another version are not used."""
if TYPE_CHECKING:
    from ._ring import Ring as Ring
    from ._ring import send_byte as send_byte
else:
    try:
        from . import _ring

        if _ring.FORM != FORM:
            raise ImportError("compiled for another version")
        Ring, send_byte = _ring.Ring, _ring.send_byte
    except ImportError:
        Ring, send_byte = PlainRing, sends_through_ctypes()
