"""A job's spool: one attempt's preallocated, mapped file, into which `log` packs values without a thread or a system call.

Killing the job loses nothing that `log` answered True for; the layout is in spool_layout.py.
"""

from __future__ import annotations

import mmap
import operator
import os
import struct
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from .control_page import ControlPage, Order
from .spool_file import create_file
from .spool_layout import (
    CONTROL_BYTES,
    CONTROL_OFFSET,
    DEFAULT_RING_BYTES,
    EVENT,
    MAX_NAME_CHARACTERS,
    MAX_SERIES,
    NAME_HEAD,
    NAMES_BYTES,
    NAMES_OFFSET,
    PAD,
    POINTS,
    RECORD_HEAD,
    RECORD_HEAD_BYTES,
    RING_OFFSET,
    WORD_ARMED,
    WORD_DROPPED,
    WORD_ENDED,
    WORD_HEAD,
    WORD_NAMES,
    WORD_READ,
    WORD_REFUSED,
    Identity,
    padded,
    reserve_of,
)

MAX_LEFT = 16_384
"""Calls that may wait for the holder of the lock: what two threads can log while the third that holds it waits for the GIL."""
MAX_SHAPES = 4096
_CLOSING_WAIT_S = 1.0
_POSITION_WAIT_S = 0.02
_FAR = 1 << 16

_KIND_AND_COUNT = struct.Struct("@HHI")


class Spool:
    """The job's side of one attempt's spool. Nothing here waits or raises for what it is given."""

    def __init__(self, fd: int, path: str, identity: Identity, ring_bytes: int, survives_reboot: bool) -> None:
        self.fd, self.path, self.run, self.attempt = fd, path, identity.run, identity.attempt
        self.identity = identity
        self.survives_reboot = survives_reboot
        self.size = RING_OFFSET + ring_bytes
        self.next_position = 0
        self.not_numbers = 0
        self._dropped = self._overflowed = self._skipped = 0
        self._ring, self._reserve = ring_bytes, reserve_of(ring_bytes)
        self._map = mmap.mmap(fd, self.size)
        self._buffer = memoryview(self._map)
        self._words = self._buffer[:CONTROL_OFFSET].cast("Q")
        self._page = ControlPage(self._buffer[CONTROL_OFFSET : CONTROL_OFFSET + CONTROL_BYTES])
        self._head = 0
        self._shift = -RING_OFFSET  # where byte `head` of the ring lies in the file: head - shift
        self._limit = 0
        self._series: dict[str, int] = {}
        self._names = 0
        self._shapes: dict[tuple[Any, ...], tuple[Callable[..., bytes], Callable[..., None], int, int, bytes]] = {}
        self._keys: tuple[Any, ...] | None = None
        self._pack: Callable[..., bytes] = struct.pack
        self._store: Callable[..., None] = struct.pack_into
        self._record = self._count = 0
        self._ids = b""
        self._left: deque[tuple[int, dict[str, float], float] | tuple[bytes, bool]] = deque()
        self._ahead = count(1)
        self._lock = threading.Lock()
        self._acquire: Callable[[bool], bool] = self._lock.acquire
        self._release = self._lock.release
        self._open = True
        _forget_in_children(self)

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

    def log(self, step: int, values: Mapping[str, float], time_s: float) -> bool:
        """One record of `values` at `step`, born at `time_s` (seconds since 1970). False: dropped and counted."""
        if not self._acquire(False):
            return self._leave((step, dict(values), time_s))
        try:
            taken = self._write(step, values, time_s)
        finally:
            if self._left:
                self._empty()
            self._release()
        if self._left:
            self._settle()
        return taken

    def event(self, body: bytes, closing: bool = False) -> bool:
        """An encoded RunEvent or Ack. It may use the reserve that points may not. `closing`: it says that the attempt
        ended, so that a daemon need not conclude it from the process's death."""
        if not self._acquire(False):
            return self._leave((body, closing))
        try:
            taken = self._write_event(body, closing)
        finally:
            if self._left:
                self._empty()
            self._release()
        if self._left:
            self._settle()
        return taken

    def take_position(self) -> int:
        """Reserves one position, for an event's `seq`."""
        if self._lock.acquire(timeout=_POSITION_WAIT_S):
            try:
                self.next_position += 1
                return self.next_position - 1
            finally:
                self._lock.release()
        # A signal handler that interrupted the holder: far enough ahead that what the holder is writing cannot reach it.
        position = self.next_position + _FAR * next(self._ahead)
        self._left.append((b"", False))
        return position

    @property
    def dropped(self) -> int:
        """Points (and events, each as one) that found no room."""
        return self._dropped + self._overflowed

    @property
    def unread(self) -> int:
        """Bytes written that a daemon has not yet put on its log; 0 means that all is durable there."""
        return self._head - self._words[WORD_READ] if self._open else 0

    @property
    def armed(self) -> bool:
        """Whether the daemon sleeps and wants the bell; asking clears it."""
        if self._open and self._words[WORD_ARMED]:
            self._words[WORD_ARMED] = 0
            return True
        return False

    def revision(self) -> int:
        """The control page's revision: it differs from the last one whenever `orders` is to be asked."""
        return self._page.revision() if self._open else 0

    def orders(self) -> list[Order]:
        """What the daemon wants and the job has not answered, in the order in which it was placed."""
        return self._page.orders() if self._open else []

    def answered(self, order_id: str) -> None:
        """Frees the slot of a one-shot, or marks a learning rate or a standing order as taken."""
        if self._open:
            self._page.answered(order_id)

    def close(self, unlink: bool = False) -> None:
        """Writes what waits and lets go of the file; `unlink` removes it. Idempotent."""
        if not self._open:
            return
        # An exception thrown by a signal handler between taking the lock and using it leaves it taken for good.
        held = self._lock.acquire(timeout=_CLOSING_WAIT_S)
        self._empty()
        if held:
            self._lock.release()
        self._forget()
        self._page.release()
        self._words.release()
        self._buffer.release()
        self._map.close()
        os.close(self.fd)
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

    def _leave(self, entry: tuple[int, dict[str, float], float] | tuple[bytes, bool]) -> bool:
        """For the holder of the lock to write. It may be this very thread, interrupted by the signal whose handler logs."""
        if not self._open:
            return False
        if len(self._left) >= MAX_LEFT:
            self._overflowed += len(entry[1]) if len(entry) == 3 else 1
            return False
        self._left.append(entry)
        self._settle()
        return True

    def _settle(self) -> None:
        """Writes what was left after the last holder looked."""
        while self._left and self._acquire(False):
            try:
                self._empty()
            finally:
                self._release()

    def _empty(self) -> None:
        """Writes what others left; the lock is held."""
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
            self._words[WORD_DROPPED] = self.dropped

    def _write(self, step: int, values: Mapping[str, float], time_s: float) -> bool:
        """The record, with the lock held. This is the path that a training step pays for."""
        keys = tuple(values)
        if keys != self._keys and not self._know(keys):
            return self._write_odd(step, values, time_s)
        head, position, size = self._head, self.next_position, self._record
        if head + size > self._limit:
            head = self._room(size, self._reserve)
            if head < 0:
                return self._drop(self._count)
        try:
            body = self._pack(head, position, self._ids, step, time_s, *values.values())
        except (struct.error, TypeError, OverflowError, ValueError):
            return self._write_odd(step, values, time_s)
        self.next_position = position + self._count
        self._store(self._buffer, head - self._shift, size, zlib.crc32(body), body)
        self._head = self._words[WORD_HEAD] = head + size
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
        kept = {name: value for name, value in kept.items() if self._define(name) >= 0}
        if not kept or not -(1 << 63) <= at < 1 << 63 or not self._know(tuple(kept)):
            return self._drop(max(1, len(kept)))
        return self._write(at, kept, born)

    def _know(self, keys: tuple[Any, ...]) -> bool:
        """Makes the form of records with these names the current one; False if there is none."""
        shape = self._shapes.get(keys)
        if shape is None:
            ids = [self._define(name) for name in keys]
            if not ids or min(ids) < 0:
                return False
            blob = _KIND_AND_COUNT.pack(POINTS, 0, len(ids)) + struct.pack(f"@{len(ids)}I", *ids)
            blob = blob.ljust(padded(len(blob)), b"\0")
            body = struct.Struct(f"@QQ{len(blob)}sqd{len(ids)}d")
            if body.size + 8 > self._ring // 4:
                return False
            shape = (body.pack, struct.Struct(f"@II{body.size}s").pack_into, body.size + 8, len(ids), blob)
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            self._shapes[keys] = shape
        self._pack, self._store, self._record, self._count, self._ids = shape
        self._keys = keys
        return True

    def _define(self, name: Any) -> int:
        """The id of a series; -1 if the name is not usable or there is no room for another."""
        known = self._series.get(name, -1) if isinstance(name, str) else -1
        if known >= 0:
            return known
        try:
            spelled = str.encode(name)
        except (TypeError, UnicodeEncodeError):
            spelled = b""
        size = padded(NAME_HEAD.size + len(spelled))
        usable = len(spelled) > 0 and len(name) <= MAX_NAME_CHARACTERS
        if not usable or len(self._series) >= MAX_SERIES or self._names + size > NAMES_BYTES:
            self._words[WORD_REFUSED] += 1
            return -1
        at = NAMES_OFFSET + self._names
        self._buffer[at : at + NAME_HEAD.size] = NAME_HEAD.pack(len(spelled), 0, zlib.crc32(spelled))
        self._buffer[at + NAME_HEAD.size : at + NAME_HEAD.size + len(spelled)] = spelled
        self._names += size
        self._words[WORD_NAMES] = self._names
        self._series[name] = len(self._series)
        return self._series[name]

    def _write_event(self, body: bytes, closing: bool) -> bool:
        size = padded(RECORD_HEAD_BYTES + len(body))
        head = self._room(size, 0) if size <= max(self._ring // 4, self._reserve) else -1
        if head < 0:
            return self._drop(1)
        rest = RECORD_HEAD.pack(size, 0, head, 0, EVENT, 0, len(body))[8:] + body
        self._put(head, rest.ljust(size - 8, b"\0"))
        if closing:
            self._words[WORD_ENDED] = 1
        self._head = self._words[WORD_HEAD] = head + size
        self._limit = 0  # the next point looks at the room again, with the reserve
        return True

    def _put(self, head: int, rest: bytes) -> None:
        at = head - self._shift
        self._buffer[at : at + 8] = struct.pack("@II", len(rest) + 8, zlib.crc32(rest))
        self._buffer[at + 8 : at + 8 + len(rest)] = rest

    def _room(self, size: int, reserve: int) -> int:
        """Where a record of `size` bytes may begin, a new lap begun if need be; -1 if the daemon is too far behind."""
        if not self._open:
            return -1
        head = self._head
        read = min(max(self._words[WORD_READ], head - self._ring), head)
        end, lap_end = read + self._ring - reserve, self._shift + RING_OFFSET + self._ring
        if head + size > lap_end:
            if lap_end + size > end:
                return -1
            if lap_end - head >= RECORD_HEAD_BYTES:
                pad = RECORD_HEAD.pack(lap_end - head, 0, head, 0, PAD, 0, 0)
                at = head - self._shift
                self._buffer[at : at + RECORD_HEAD_BYTES] = RECORD_HEAD.pack(
                    lap_end - head, zlib.crc32(pad[8:]), head, 0, PAD, 0, 0
                )
            self._shift += self._ring
            head = lap_end
            lap_end += self._ring
            self._head = self._words[WORD_HEAD] = head
        self._limit = min(lap_end, end)
        return head if head + size <= end else -1

    def _drop(self, points: int) -> bool:
        """Counts what is lost; its positions stay a gap."""
        self.next_position += points
        self._dropped += points
        if self._open:
            self._words[WORD_DROPPED] = self.dropped
        return False


def _number(value: Any) -> float | None:
    try:
        return float(value) if not isinstance(value, str | bytes) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _never(_: bool) -> bool:
    return False


def _forget_in_children(spool: Spool) -> None:
    reference = weakref.ref(spool)

    def forget() -> None:
        found = reference()
        if found is not None:
            found._forget()

    os.register_at_fork(after_in_child=forget)
