"""Where things lie in a spool, version 1: header, control page, names, ring. Both sides read it from here.

    0          header: 64 words of 8 bytes (below), then the identity (length, CRC, JSON)
    8 KiB      control page (control_page.py)
    72 KiB     names: the definitions of series, in the order of their ids, never overwritten
    1096 KiB   ring of records

A record is a multiple of 8 bytes: word 0 is its length and the CRC-32 of the rest, word 1 its absolute offset (bytes ever
written before it), word 2 the position of its first point, word 3 its kind and count. Points go on with one id a value
(4 bytes each, padded to 8), the step, the time and the values; an event with its body. The end of a lap too small for a
record is a pad record, or, when it is under 32 bytes, nothing. All in the machine's own byte order.
"""

from __future__ import annotations

import os
import struct
import zlib

import msgspec

from ..core.errors import CorruptData

FORM = 1
MAGIC = int.from_bytes(b"STspool\n", "little")

HEADER_BYTES = 8 << 10
CONTROL_OFFSET = HEADER_BYTES
CONTROL_BYTES = 64 << 10
NAMES_OFFSET = CONTROL_OFFSET + CONTROL_BYTES
NAMES_BYTES = 1 << 20
RING_OFFSET = NAMES_OFFSET + NAMES_BYTES
DEFAULT_RING_BYTES = 4 << 20
LEAST_RING_BYTES = 4 << 10
EVENT_RESERVE_BYTES = 64 << 10
"""The end of the ring that only run events and acks may fill (a quarter of a ring smaller than 256 KiB)."""
MAX_SERIES = 10_000
MAX_NAME_CHARACTERS = 256

# Words of the header, each of 8 bytes, each written by one side only.
WORD_MAGIC, WORD_FORM, WORD_HEAD, WORD_READ, WORD_ARMED, WORD_DROPPED, WORD_DRAINED, WORD_ENDED = range(8)
WORD_NAMES, WORD_REFUSED, WORD_RING, WORD_TOLD = 8, 9, 10, 11
DRAINED, GIVEN_UP = 1, 2
"""What the drained word says: all was taken, or what is left cannot be read."""
HEADER_WORDS = 16
IDENTITY_OFFSET = 512

RECORD_HEAD = struct.Struct("@IIQQHHI")
"""length, CRC, absolute offset, position of the first point, kind, 0, count (points) or bytes (event)"""
RECORD_HEAD_BYTES = RECORD_HEAD.size
PAD, POINTS, EVENT = 0, 1, 2
NAME_HEAD = struct.Struct("@HHI")
"""bytes of the name, 0, CRC"""
_LENGTH_AND_CRC = struct.Struct("@II")


class Identity(msgspec.Struct, frozen=True):
    """Whose spool it is, and for whom. `pid_started` is in clock ticks since boot, `created` in seconds since 1970."""

    run: str
    attempt: str
    address: str
    group: str | None = None
    pid: int = 0
    pid_started: int = 0
    pid_namespace: str = ""
    boot_id: str = ""
    created: float = 0.0


class Truncated(CorruptData):
    """The file ends before what it must hold; nothing more can be had from it."""


def padded(size: int) -> int:
    """The next multiple of 8."""
    return -(-size // 8) * 8


def reserve_of(ring_bytes: int) -> int:
    """How much of the ring belongs to events alone."""
    return min(EVENT_RESERVE_BYTES, ring_bytes // 4)


def encode_identity(identity: Identity) -> bytes:
    """The identity as it stands in the header; ValueError if it does not fit."""
    body = msgspec.json.encode(identity)
    if len(body) > HEADER_BYTES - IDENTITY_OFFSET - _LENGTH_AND_CRC.size:
        raise ValueError("the names of run, group and address are too long for a spool's header")
    return _LENGTH_AND_CRC.pack(len(body), zlib.crc32(body)) + body


def decode_header(header: bytes, size: int) -> tuple[Identity, int]:
    """The identity and the ring's bytes from a file of `size` bytes whose first 8 KiB are `header`; CorruptData says what
    is wrong with it."""
    if len(header) < HEADER_BYTES:
        raise CorruptData("a spool cut short", "nothing of it can be read; delete it")
    words = struct.unpack_from(f"@{HEADER_WORDS}Q", header)
    if words[WORD_MAGIC] != MAGIC:
        raise CorruptData("not a spool", "delete the file if Smart Tuner's folder holds it")
    if words[WORD_FORM] != FORM:
        raise CorruptData(f"a spool of form {words[WORD_FORM]}, this daemon knows {FORM}", "upgrade the daemon")
    ring = words[WORD_RING]
    if ring < LEAST_RING_BYTES or ring % 8 or RING_OFFSET + ring != size:
        raise CorruptData(f"a spool of {size} bytes that says its ring has {ring}", "it was truncated or damaged; delete it")
    length, crc = _LENGTH_AND_CRC.unpack_from(header, IDENTITY_OFFSET)
    start = IDENTITY_OFFSET + _LENGTH_AND_CRC.size
    body = header[start : start + length]
    if len(body) != length or zlib.crc32(body) != crc:
        raise CorruptData("a spool whose identity is damaged", "it was truncated or damaged; delete it")
    try:
        return msgspec.json.decode(body, type=Identity), ring
    except msgspec.DecodeError as error:
        raise CorruptData(f"a spool whose identity is damaged: {error}", "delete it") from error


def pread_word(fd: int, index: int) -> int:
    """Word `index` of the header through a descriptor; CorruptData if the file ends before it."""
    data = os.pread(fd, 8, 8 * index)
    if len(data) != 8:
        raise Truncated("a spool was truncated while it was read", "its writer or someone else cut the file")
    return int.from_bytes(data, "little" if _LITTLE else "big")


def pwrite_word(fd: int, index: int, value: int) -> None:
    """Sets word `index` of the header: one aligned store of 8 bytes."""
    os.pwrite(fd, value.to_bytes(8, "little" if _LITTLE else "big"), 8 * index)


_LITTLE = struct.pack("@H", 1) == b"\x01\x00"
