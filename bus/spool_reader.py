"""The daemon's side of a spool: records out of a descriptor that a job handed over, with pread and distrust.

A mapping would end the daemon with a SIGBUS when someone truncates the file; and the job, or whoever writes as the same user,
may put anything there. So nothing is taken that its length, its place and its CRC do not confirm.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ..core.errors import CorruptData, Forbidden
from . import filesystem
from .spool_layout import (
    DRAINED,
    EVENT,
    GIVEN_UP,
    HEADER_BYTES,
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
    WORD_DRAINED,
    WORD_DROPPED,
    WORD_ENDED,
    WORD_HEAD,
    WORD_NAMES,
    WORD_READ,
    WORD_REFUSED,
    WORD_TOLD,
    Truncated,
    decode_header,
    padded,
    pread_word,
    pwrite_word,
)

TURN_BYTES = 256 << 10
DOUBT_S = 1.0
MAX_DAMAGES = 16
"""Places of one spool that may be damaged before it is given up."""
MAX_ROWS_POINTS = 2500
_FAR = 1 << 62
_PLAUSIBLE = 1 << 48


class Rows(NamedTuple):
    """Records that follow each other and hold the same series: `values[i]` is the column of `names[i]`. `end` is the
    absolute offset behind the last."""

    names: tuple[str, ...]
    positions: tuple[int, ...]
    steps: tuple[int, ...]
    times: tuple[float, ...]
    values: list[tuple[float, ...]]
    end: int


class Body(NamedTuple):
    """An encoded RunEvent or Ack, as the job wrote it."""

    body: bytes
    end: int


class _Form(NamedTuple):
    ids: bytes
    names: tuple[str, ...]
    unpack: Callable[[bytes, int], tuple[Any, ...]]
    size: int


def check_descriptor(fd: int, uid: int, announced: int | None) -> None:
    """Forbidden, with the reason, unless `fd` is a local regular file of `uid`, open for reading and writing."""
    told = os.fstat(fd)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if not stat.S_ISREG(told.st_mode):
        reason = "it is not a regular file"
    elif told.st_uid != uid:
        reason = f"it belongs to uid {told.st_uid}, the job runs as uid {uid}"
    elif flags & os.O_ACCMODE != os.O_RDWR:
        reason = "it is not open for reading and writing"
    elif flags & os.O_APPEND:
        reason = "it is open for appending, so that orders would land at its end"
    elif announced is not None and told.st_size != announced:
        reason = f"it has {told.st_size} bytes, {announced} were announced"
    else:
        network = filesystem.remote(fd)
        if network is None:
            return
        reason = f"it lies on {network}"
    raise Forbidden(f"this spool is not taken: {reason}", "create it with smarttuner.attach on a local disk, as the job's user")


class SpoolReader:
    """Reads one spool from `position` (absolute) on. Owns its descriptor."""

    def __init__(self, fd: int, position: int | None = None) -> None:
        self.fd = fd
        self.identity, self._ring = decode_header(os.pread(fd, HEADER_BYTES, 0), os.fstat(fd).st_size)
        self.position = max(position or 0, self.word(WORD_READ))
        self.broken = False
        self.damages = 0
        self.lost_bytes = 0
        self._following = 0
        self._names: list[str] = []
        self._names_read = 0
        self._forms: dict[bytes, _Form] = {}
        self._form: _Form | None = None
        self._doubt: tuple[int, float] | None = None

    def word(self, index: int) -> int:
        """A word of the header; CorruptData if the file was cut."""
        return pread_word(self.fd, index)

    @property
    def dropped(self) -> int:
        """Points the job found no room for; 0 for a number that no job counts to: the word was overwritten."""
        count = self.word(WORD_DROPPED)
        return count if count < _PLAUSIBLE else 0

    @property
    def told(self) -> int:
        """How many of the dropped points somebody was told of, by whichever daemon."""
        return min(self.word(WORD_TOLD), self.dropped)

    def tell(self, dropped: int) -> None:
        """So many dropped points were told of; who serves the spool next tells of what comes on top."""
        pwrite_word(self.fd, WORD_TOLD, dropped)

    @property
    def refused(self) -> int:
        """Values under names that could not be used."""
        return self.word(WORD_REFUSED)

    @property
    def ended(self) -> bool:
        """Whether the job wrote its closing event."""
        return self.word(WORD_ENDED) != 0

    @property
    def drained(self) -> bool:
        """Whether a daemon has taken all of it, or given it up, and nothing was written since."""
        state = self.word(WORD_DRAINED)
        return state == GIVEN_UP or (state != 0 and self.word(WORD_HEAD) == self.word(WORD_READ))

    @property
    def behind(self) -> int:
        """Bytes written and not read; negative or over the ring only in a damaged spool."""
        return self.word(WORD_HEAD) - self.position

    @property
    def doubtful(self) -> bool:
        """Whether the next record does not agree yet."""
        return self._doubt is not None

    def arm(self) -> bool:
        """Asks the job to ring. False: there is something to read, and it was not armed."""
        pwrite_word(self.fd, WORD_ARMED, 1)
        if self.behind == 0:
            return True
        self.disarm()
        return False

    def disarm(self) -> None:
        """Nobody is there to hear the bell."""
        pwrite_word(self.fd, WORD_ARMED, 0)

    def commit(self, position: int) -> None:
        """All before `position` is durable elsewhere; the job may write over it."""
        pwrite_word(self.fd, WORD_READ, position)

    def rewind(self, position: int) -> None:
        """Reads from `position` again, what was read since having found no place."""
        self.position, self._following, self._form = position, 0, None

    def mark_drained(self, drained: bool = True) -> None:
        """Says to whoever finds the file that nothing in it is needed."""
        pwrite_word(self.fd, WORD_DRAINED, 0 if not drained else GIVEN_UP if self.broken else DRAINED)

    def close(self) -> None:
        """Closes the descriptor. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self, now: float, limit: int = TURN_BYTES) -> list[Rows | Body]:
        """What was written since, about `limit` bytes at most, and moves on behind it. `now` is monotonic seconds.

        What does not agree is left for the next call; when it has not agreed for a second, CorruptData says so, and the
        next call goes on behind it, or `broken` says that nothing more can be had."""
        head = self.word(WORD_HEAD)
        if head == self.position:
            return []
        if not 0 < head - self.position <= self._ring or head % 8 or self.position % 8:
            self._distrust(now, head, "its head is nowhere near what was read")
            return []
        found: list[Rows | Body] = []
        lap_end = (self.position // self._ring + 1) * self._ring
        wanted = min(head, lap_end) - self.position
        data = self._pread(min(wanted, limit))
        whole = RECORD_HEAD.unpack_from(data)[0] if len(data) >= RECORD_HEAD_BYTES else 0
        if len(data) < whole <= min(wanted, max(self._ring // 4, TURN_BYTES)):
            data = self._pread(whole)
        problem = self._parse(data, lap_end, found)
        if found:
            self._doubt = None
        elif self.position == lap_end:  # nothing but a pad: the next lap
            return self.read(now, limit)
        elif problem:
            self._distrust(now, head, problem)
        return found

    def _pread(self, size: int) -> bytes:
        data = os.pread(self.fd, size, RING_OFFSET + self.position % self._ring)
        if len(data) != size:
            raise Truncated("a spool was truncated while it was read", "its writer or someone else cut the file")
        return data

    def _parse(self, data: bytes, lap_end: int, found: list[Rows | Body]) -> str:
        """Appends to `found` what is whole in `data` and moves the position; why it stopped before the end, if it did."""
        start, at, size = self.position, 0, len(data)
        rows: list[tuple[Any, ...]] = []
        form, points, following, problem = self._form, 0, self._following, ""
        while at < size:
            if form is None or not data.startswith(form.ids, at + 24) or points >= MAX_ROWS_POINTS:
                self._gather(rows, form, start + at, found)
                rows, points = [], 0
                if size - at < RECORD_HEAD_BYTES:
                    at, problem = self._end_of_lap(start + at, at, size, lap_end)
                    break
                form, at, problem = self._other(data, at, start, found)
                if problem:
                    break
                if form is None:
                    continue
            end = at + form.size
            if end > size:
                problem = "a record is cut"
                break
            row = form.unpack(data, at)
            if row[0] != form.size or row[2] != start + at or zlib.crc32(data[at + 8 : end]) != row[1]:
                problem = "a record does not agree with its CRC"
                break
            if not following <= row[3] < _FAR:
                problem = "positions do not rise"
                break
            following = row[3] + len(form.names)
            rows.append(row)
            points += len(form.names)
            at = end
        self._gather(rows, form, start + at, found)
        self.position, self._form, self._following = start + at, form, following
        return problem

    @staticmethod
    def _end_of_lap(position: int, at: int, size: int, lap_end: int) -> tuple[int, str]:
        """The rest of a lap that is too small for a record is skipped; the rest of a turn is read again."""
        if position + (size - at) == lap_end:
            return size, ""
        return at, "a record is cut"

    @staticmethod
    def _gather(rows: list[tuple[Any, ...]], form: _Form | None, end: int, found: list[Rows | Body]) -> None:
        if rows and form is not None:
            columns = list(zip(*rows, strict=True))
            found.append(Rows(form.names, columns[3], columns[5], columns[6], columns[7:], end))

    def _other(self, data: bytes, at: int, start: int, found: list[Rows | Body]) -> tuple[_Form | None, int, str]:
        """A record that is not of the form of the last: the form to unpack it with, or, for pads and events, None and the
        offset behind it; and what is wrong with it."""
        length, crc, absolute, _, kind, _, count = RECORD_HEAD.unpack_from(data, at)
        if absolute != start + at or length < RECORD_HEAD_BYTES or length % 8:
            return None, at, "a record is not where it should be"
        if kind == POINTS:
            ids = data[at + 24 : at + 24 + padded(8 + 4 * count)]
            form = self._forms.get(ids) or self._new_form(ids, count, length)
            return form, at, "" if form is not None else "a record of unknown series"
        end = at + (RECORD_HEAD_BYTES if kind == PAD else length)
        if end > len(data):
            return None, at, "a record is cut"
        if zlib.crc32(data[at + 8 : end]) != crc or kind not in (PAD, EVENT):
            return None, at, "a record does not agree with its CRC"
        if kind == EVENT:
            if RECORD_HEAD_BYTES + count > length:
                return None, at, "an event is longer than its record"
            found.append(Body(data[at + RECORD_HEAD_BYTES : at + RECORD_HEAD_BYTES + count], start + at + length))
        elif (start + at + length) % self._ring:
            return None, at, "a pad record does not reach the end of its lap"
        return None, at + length, ""

    def _new_form(self, ids: bytes, count: int, length: int) -> _Form | None:
        unpack = struct.Struct(f"@IIQQ{len(ids)}sqd{count}d") if 0 < count <= self._ring // 32 else None
        if unpack is None or len(ids) != padded(8 + 4 * count) or unpack.size != length:
            return None
        numbers = struct.unpack_from(f"@{count}I", ids, 8)
        if max(numbers) >= len(self._names):
            self._read_names()
        if max(numbers) >= len(self._names) or len(set(numbers)) != count:
            return None
        form = _Form(ids, tuple(self._names[number] for number in numbers), unpack.unpack_from, unpack.size)
        if len(self._forms) >= MAX_SERIES:
            self._forms.clear()
        self._forms[ids] = form
        return form

    def _read_names(self) -> None:
        """Takes in the definitions written since; a damaged one ends it, so that its series stay unknown."""
        used = min(self.word(WORD_NAMES), NAMES_BYTES)
        data = os.pread(self.fd, max(0, used - self._names_read), NAMES_OFFSET + self._names_read)
        known, at = set(self._names), 0
        while at + NAME_HEAD.size <= len(data) and len(self._names) < MAX_SERIES:
            length, _, crc = NAME_HEAD.unpack_from(data, at)
            spelled = data[at + NAME_HEAD.size : at + NAME_HEAD.size + length]
            if not length or len(spelled) != length or zlib.crc32(spelled) != crc:
                break
            name = spelled.decode(errors="replace")
            if name in known or len(name) > MAX_NAME_CHARACTERS:
                break
            known.add(name)
            self._names.append(name)
            at += padded(NAME_HEAD.size + length)
        self._names_read += at

    def _distrust(self, now: float, head: int, problem: str) -> None:
        """The head may be visible before what it covers; what does not agree for a second is damage."""
        if self._doubt is None or self._doubt[0] != self.position:
            self._doubt = (self.position, now)
        if now - self._doubt[1] < DOUBT_S:
            return
        self._doubt = None
        self.damages += 1
        before = self.position
        following = self._next_whole(head)
        if following is None or self.damages > MAX_DAMAGES:
            self.broken = True
            raise CorruptData(
                f"the spool of attempt {self.identity.attempt} cannot be read on: {problem}",
                "the job's points from here on are lost; start it again",
            )
        self.lost_bytes += following - before
        self.position = following
        raise CorruptData(
            f"{following - before} bytes of the spool of attempt {self.identity.attempt} are damaged: {problem}",
            "reading goes on behind them; look for whoever else writes to the file",
        )

    def _next_whole(self, head: int) -> int | None:
        """Where the next record begins that says of itself where it lies, else the head; None if even that is damaged or
        the file was cut."""
        if not 0 < head - self.position <= self._ring or head % 8 or self.position % 8:
            return None
        lap_end = (self.position // self._ring + 1) * self._ring
        for first, last in ((self.position + 8, min(head, lap_end)), (lap_end, head)):
            data = os.pread(self.fd, max(0, last - first), RING_OFFSET + first % self._ring)
            if len(data) != max(0, last - first):
                return None
            words = memoryview(data).cast("Q")
            for index in range(len(words) - 3):
                if words[index + 1] == first + 8 * index:
                    return first + 8 * index
        return head
