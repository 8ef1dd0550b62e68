"""A job's spool: one attempt's preallocated, mapped file, into which `log` packs values without a thread or a system call.

Killing the job loses nothing that `log` answered True for; the layout is in spool_layout.py.
"""

from __future__ import annotations

import mmap
import operator
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any
from zlib import crc32

from .control_page import ControlPage, Order
from .descriptors import bears, in_children, mark_of, never_close
from .ring import Ring
from .series_names import NO_SHAPE, SeriesNames
from .spool_file import create_file
from .spool_layout import (
    CONTROL_BYTES,
    CONTROL_OFFSET,
    DEFAULT_RING_BYTES,
    EVENT,
    PAD,
    RECORD_HEAD,
    RECORD_HEAD_BYTES,
    RING_OFFSET,
    WORD_ARMED,
    WORD_DROPPED,
    WORD_ENDED,
    WORD_HEAD,
    WORD_READ,
    Identity,
    padded,
    reserve_of,
)

MAX_LEFT = 16_384
"""Calls that may wait for the holder of the lock: what two threads can log while the third that holds it waits for the GIL."""
_CLOSING_WAIT_S = 1.0
_POSITION_WAIT_S = 0.02
_FAR = 1 << 16
_AT_ONCE = (False,)


class Spool(Ring):
    """The job's side of one attempt's spool. Nothing here waits or raises for what it is given. `words` of the header and
    `page`, the control page, are for who looks at one word of them at every step of a training, without a call."""

    # Over 30 attributes CPython looks each up in a dictionary; slots keep log() at one load each.
    __slots__ = (
        "__weakref__", "_acquire", "_ahead", "_buffer", "_dropped", "_left", "_lock", "_mapped", "_overflowed", "_release",
        "_reserve", "_ring", "_series", "_shape", "_skipped", "_stuck_at", "attempt", "fd", "identity", "mark", "not_numbers",
        "page", "path", "run", "size", "survives_reboot", "words",
    )  # fmt: skip

    def __init__(self, fd: int, path: str, identity: Identity, ring_bytes: int, survives_reboot: bool) -> None:
        self.fd, self.path, self.run, self.attempt = fd, path, identity.run, identity.attempt
        self.identity = identity
        self.survives_reboot = survives_reboot
        self.size = RING_OFFSET + ring_bytes
        self.next_position = 0
        self.not_numbers = 0
        self._dropped = self._overflowed = self._skipped = 0
        self._ring, self._reserve = ring_bytes, reserve_of(ring_bytes)
        self.mark = mark_of(fd)
        self._mapped = mmap.mmap(fd, self.size)
        self._buffer = memoryview(self._mapped)
        self.words = self._buffer[:CONTROL_OFFSET].cast("Q")
        self.page = ControlPage(self._buffer[CONTROL_OFFSET : CONTROL_OFFSET + CONTROL_BYTES])
        self._head = 0
        self._shift = -RING_OFFSET  # where byte `head` of the ring lies in the file: head - shift
        self._limit = 0
        self._series = SeriesNames(self._buffer, self.words)
        self._shape = NO_SHAPE
        self._parts = NO_SHAPE[:]  # of _shape, a plain tuple: it is taken apart without an iterator
        self._busy = self._owing = False
        self._left: deque[tuple[int, dict[str, float], float] | tuple[bytes, bool]] = deque()
        self._ahead = count(1)
        self._lock = threading.Lock()
        self._stuck_at = -1
        self._acquire: Callable[[bool], bool] = self._lock.acquire
        self._release = self._lock.release
        self._open = True
        self._map(self._buffer, 8 * WORD_HEAD, 8 * WORD_ARMED, CONTROL_OFFSET, RING_OFFSET)
        in_children(self, Spool._forget_in_child)

    @classmethod
    def create(
        cls,
        folder: str,
        run: str,
        attempt: str,
        address: str,
        ring_bytes: int = DEFAULT_RING_BYTES,
        group: str | None = None,
    ) -> Spool:
        """A new spool in `folder` (made if need be), meant for the daemon at `address` (a data directory or a broker's
        URL). Where the folder lies on a network file system, or copy-on-write without NOCOW, it goes to /dev/shm
        (`survives_reboot` is False then). Unavailable where no file can be had."""
        fd, path, identity, survives = create_file(folder, Identity(run, attempt, address, group), ring_bytes)
        try:
            return cls(fd, path, identity, ring_bytes, survives)
        except BaseException:
            os.close(fd)
            raise

    def log(
        self,
        step: int,
        values: Mapping[str, float],
        time_s: float,
        names: tuple[str, ...] | None = None,
        numbers: Sequence[float] = (),
    ) -> bool:
        """One record of `values` at `step`, born at `time_s` (seconds since 1970). False: dropped and counted. Where another
        thread, or the code that a signal handler interrupted, holds the lock, True is its promise to write the values next
        (`dropped` counts them should it then find no room). `names` and `numbers` are the two halves of `values`, where the
        caller has them: whatever is made once more is cold in a training, and costs it a microsecond.

        The same as `_write`, spelled out for the case that a training step pays for: the names of the last call, numbers
        throughout, room on this lap. What is called is loaded first: CPython 3.11 searches the class for an attribute that is
        loaded and called in one. And what is given to the lock is a tuple already, so that none is made.
        """
        acquire, release = self._acquire, self._release
        if not acquire(*_AT_ONCE):
            return self._leave((step, dict(values), time_s))
        try:
            self._busy = True
            if names is None:
                names, numbers = (*values,), (*values.values(),)
            keys, pack, store, size, points, ids = self._parts
            head = self._head
            end = head + size
            if names == keys and end <= self._limit and not self._left:
                position = self.next_position
                body = pack(head, position, ids, step, time_s, *numbers)
                self.next_position = position + points
                store(self._buffer, head - self._shift, size, crc32(body), body)
                self._head = self.words[WORD_HEAD] = end
                taken = True
            else:
                self._empty()  # what this thread left comes before what it logs now
                taken = self._write(step, values, time_s)
        except (struct.error, TypeError, OverflowError, ValueError, AttributeError):
            taken = self._write_odd(step, values, time_s)
        finally:
            self._busy = False
            release()
        if self._left:
            self._settle()
        return taken

    def event(self, body: bytes, closing: bool = False) -> bool:
        """An encoded RunEvent or Ack. It may use the reserve that points may not. `closing`: it says that the attempt
        ended, so that a daemon need not conclude it from the process's death."""
        if not self._acquire(False):
            return self._leave((body, closing))
        try:
            self._busy = True
            self._empty()
            taken = self._write_event(body, closing)
        finally:
            self._busy = False
            self._release()
        if self._left:
            self._settle()
        return taken

    def take_position(self) -> int:
        """Reserves one position, for an event's `seq`."""
        if self._lock.acquire(timeout=_POSITION_WAIT_S):
            try:
                self._busy = True
                self.next_position += 1
                return self.next_position - 1
            finally:
                self._busy = False
                self._lock.release()
        # A signal handler that interrupted the holder: far enough ahead that what the holder is writing cannot reach it.
        position = self.next_position + _FAR * next(self._ahead)
        self._owing = True
        self._left.append((b"", False))
        return position

    @property
    def names(self) -> tuple[Any, ...]:
        """Those of the last record of points."""
        return self._shape.keys

    @property
    def dropped(self) -> int:
        """Points (and events, each as one) that found no room."""
        return self._dropped + self._overflowed

    @property
    def unread(self) -> int:
        """Bytes written that a daemon has not yet put on its log; 0 means that all is durable there."""
        return self._head - self.words[WORD_READ] if self._open else 0

    @property
    def armed(self) -> bool:
        """Whether the daemon sleeps and wants the bell; asking clears it."""
        if self._open and self.words[WORD_ARMED]:
            self.words[WORD_ARMED] = 0
            return True
        return False

    def revision(self) -> int:
        """The control page's revision: it differs from the last one whenever `orders` is to be asked."""
        return self.page.revision() if self._open else 0

    def orders(self) -> list[Order]:
        """What the daemon wants and the job has not answered, in the order in which it was placed."""
        return self.page.orders() if self._open else []

    def answered(self, order_id: str) -> None:
        """Frees the slot of a one-shot, or marks a learning rate or a standing order as taken."""
        if self._open:
            self.page.answered(order_id)

    def unlock(self) -> None:
        """About once a second: frees the lock where an exception of a signal's handler came between taking it and using it. Of
        a thread that waits for the GIL just there nothing is seen a second later."""
        stuck_at = self._head if self._lock.locked() and not self._busy else -1
        if stuck_at == self._stuck_at != -1:
            self._lock.release()
            self._settle()
        self._stuck_at = stuck_at

    def close(self, unlink: bool = False) -> None:
        """Writes what waits and lets go of the file; `unlink` removes it. Idempotent."""
        if not self._open:
            return
        # As above: it may be taken for good.
        held = self._lock.acquire(timeout=_CLOSING_WAIT_S)
        self._empty()
        if held:
            self._lock.release()
        self._forget()
        self._let_go()
        if unlink:
            try:
                os.unlink(self.path)
            except OSError:
                pass

    def _forget(self) -> None:
        """From here on nothing is taken: after close, and in the child of a fork, which shares the parent's pages."""
        self._open = False
        self._acquire = _never
        self._left.clear()

    def _let_go(self) -> None:
        self._unmap()
        self.page.release()
        self.words.release()
        self._buffer.release()
        if bears(self.fd, self.mark):
            self._mapped.close()
            os.close(self.fd)
        else:
            never_close(self._mapped)

    def _forget_in_child(self) -> None:
        """At once: the child may close all descriptors next, and give their numbers to its own files."""
        if self._open:
            self._forget()
            try:
                self._let_go()
            except BufferError:  # code of ours that was at work called what forked
                never_close(self._mapped)

    def _leave(self, entry: tuple[int, dict[str, float], float] | tuple[bytes, bool]) -> bool:
        """For the holder of the lock to write. It may be this very thread, interrupted by the signal whose handler logs."""
        if not self._open:
            return False
        if len(self._left) >= MAX_LEFT:
            self._overflowed += len(entry[1]) if len(entry) == 3 else 1
            return False
        self._owing = True
        self._left.append(entry)
        self._settle()
        return True

    def _settle(self) -> None:
        """Writes what was left after the last holder looked."""
        while self._left and self._acquire(False):
            try:
                self._busy = True
                self._empty()
            finally:
                self._busy = False
                self._release()

    def _empty(self) -> None:
        """Writes what others left; the lock is held."""
        self._owing = False
        while self._left:
            entry = self._left.popleft()
            if len(entry) == 3:
                self._write(*entry)
            elif entry[0]:
                self._write_event(*entry)
            else:
                self.next_position += _FAR * next(self._ahead)
        if self._skipped != self._overflowed:
            skipped, self._skipped = self._skipped, self._overflowed
            self.next_position += self._skipped - skipped
            self.words[WORD_DROPPED] = self.dropped

    def _write(self, step: int, values: Mapping[str, float], time_s: float) -> bool:
        """The record, with the lock held."""
        keys = tuple(values)
        if keys != self._shape.keys and not self._know(keys):
            return self._write_odd(step, values, time_s)
        shape, head, position = self._shape, self._head, self.next_position
        if head + shape.size > self._limit:
            head = self._room(shape.size, self._reserve)
            if head < 0:
                return self._drop(shape.points, shape.points)
        try:
            body = shape.pack(head, position, shape.ids, step, time_s, *values.values())
        except (struct.error, TypeError, OverflowError, ValueError):
            return self._write_odd(step, values, time_s)
        self.next_position = position + shape.points
        shape.store(self._buffer, head - self._shift, shape.size, crc32(body), body)
        self._head = self.words[WORD_HEAD] = head + shape.size
        return True

    def _write_odd(self, step: Any, values: Mapping[Any, Any], time_s: Any) -> bool:
        """What the fast path did not take: only what is a number under a usable name is written."""
        if not self._open:
            return False
        try:
            at, born = operator.index(step), float(time_s)
            kept = {name: number for name, value in values.items() if (number := _number(value)) is not None}
        except (TypeError, ValueError, OverflowError, AttributeError):
            self.not_numbers += 1
            return False
        self.not_numbers += len(values) - len(kept)
        kept = {name: value for name, value in kept.items() if self._series.define(name) >= 0}
        if not kept or not -(1 << 63) <= at < 1 << 63 or not self._know(tuple(kept)):
            return self._drop(max(1, len(kept)), len(kept))
        return self._write(at, kept, born)

    def _know(self, keys: tuple[Any, ...]) -> bool:
        """Makes the form of records with these names the current one; False if there is none."""
        shape = self._series.shape(keys)
        if shape is None or shape.size > self._ring // 4:
            return False
        self._shape, self._parts = shape, shape[:]
        return True

    def _write_event(self, body: bytes, closing: bool) -> bool:
        size = padded(RECORD_HEAD_BYTES + len(body))
        head = self._room(size, 0) if size <= max(self._ring // 4, self._reserve) else -1
        if head < 0:
            return self._drop(1, 0)
        rest = RECORD_HEAD.pack(size, 0, head, 0, EVENT, 0, len(body))[8:] + body
        self._put(head, rest.ljust(size - 8, b"\0"))
        if closing:
            self.words[WORD_ENDED] = 1
        self._head = self.words[WORD_HEAD] = head + size
        self._limit = 0  # the next point looks at the room again, with the reserve
        return True

    def _put(self, head: int, rest: bytes) -> None:
        at = head - self._shift
        self._buffer[at : at + 8] = struct.pack("@II", len(rest) + 8, crc32(rest))
        self._buffer[at + 8 : at + 8 + len(rest)] = rest

    def _room(self, size: int, reserve: int) -> int:
        """Where a record of `size` bytes may begin, a new lap begun if need be; -1 if the daemon is too far behind."""
        if not self._open:
            return -1
        head = self._head
        read = min(max(self.words[WORD_READ], head - self._ring), head)
        end, lap_end = read + self._ring - reserve, self._shift + RING_OFFSET + self._ring
        if head + size > lap_end:
            if lap_end + size > end:
                return -1
            if lap_end - head >= RECORD_HEAD_BYTES:
                pad = RECORD_HEAD.pack(lap_end - head, 0, head, 0, PAD, 0, 0)
                at = head - self._shift
                self._buffer[at : at + RECORD_HEAD_BYTES] = RECORD_HEAD.pack(lap_end - head, crc32(pad[8:]), head, 0, PAD, 0, 0)
            self._shift += self._ring
            head = lap_end
            lap_end += self._ring
            self._head = self.words[WORD_HEAD] = head
        self._limit = min(lap_end, end)
        return head if head + size <= end else -1

    def _drop(self, lost: int, points: int) -> bool:
        """Counts what is lost; the positions of its points stay a gap."""
        self.next_position += points
        self._dropped += lost
        if self._open:
            self.words[WORD_DROPPED] = self.dropped
        return False


def _number(value: Any) -> float | None:
    try:
        return float(value) if not isinstance(value, str | bytes) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _never(_: bool) -> bool:
    return False
