"""The control page of a spool: a table of orders that the daemon writes and the job reads at its step boundaries.

    word 0        revision: counts the placements on this page, written by the daemon after the slot
    words 8..     one word a slot, written by the job: the revision of that slot which it has answered
    byte 512..    slots of 2 KiB: revision, CRC and length of the rest, one Order as JSON

Slot 0 holds the learning rate that is wanted, slots 1 to 16 standing orders (one a series), slots 17 to 24 one-shots.
A table, not a queue: a job that comes late sees what holds now.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any, NamedTuple

import msgspec

from ..core.errors import CorruptData
from ..core.events import Decision
from .spool_layout import CONTROL_BYTES, CONTROL_OFFSET

LR_SLOT = 0
STANDING_SLOTS = range(1, 17)
ONE_SHOT_SLOTS = range(17, 25)
SLOTS = 25
SLOT_BYTES = 2048
_SLOTS_OFFSET = 512
_ANSWERED_WORD = 8
_SLOT_HEAD = struct.Struct("@QII")
MAX_REASON_CHARACTERS = 200
_ANSWERED_KEPT = 1024
_TORN = 1 << 48

LR_ACTIONS = ("scale-lr", "set-lr", "release-lr")


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels of a decision to the job. `not_after` is in seconds since 1970; `revision` counts within one page."""

    id: str
    action: str
    params: dict[str, Any] = {}
    not_after: float = 0.0
    epoch: int = 0
    reason: str = ""
    revision: int = 0


_decoder = msgspec.json.Decoder(Order)


def order_of(decision: Decision) -> Order:
    """What the job is told of `decision`."""
    return Order(
        decision.id,
        decision.action,
        decision.params,
        decision.not_after,
        decision.epoch,
        decision.reason[:MAX_REASON_CHARACTERS],
    )


def _offset(slot: int) -> int:
    return _SLOTS_OFFSET + slot * SLOT_BYTES


def _read_slot(page: memoryview | bytes, slot: int) -> Order | None:
    """The order in a slot, None for a slot never written; CorruptData while it is being written."""
    at = _offset(slot)
    revision, crc, length = _SLOT_HEAD.unpack_from(page, at)
    if revision == 0:
        return None
    body = bytes(page[at + _SLOT_HEAD.size : at + _SLOT_HEAD.size + length])
    if length > SLOT_BYTES - _SLOT_HEAD.size or zlib.crc32(body, revision & 0xFFFFFFFF) != crc:
        raise CorruptData(f"slot {slot} of a control page does not agree with its CRC", "it is read again")
    try:
        return msgspec.structs.replace(_decoder.decode(body), revision=revision)
    except msgspec.DecodeError as error:
        raise CorruptData(f"slot {slot} of a control page holds no order: {error}", "it is read again") from error


class ControlPage:
    """The job's side, over the mapped page (64 KiB)."""

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self.words = page.cast("Q")
        self.torn = 0
        self._slots: dict[str, tuple[int, int]] = {}
        self._answered: dict[str, None] = {}

    def revision(self) -> int:
        """Changes whenever the page is to be read again."""
        return self.words[0] + self.torn

    def orders(self) -> list[Order]:
        """What is on the page and not answered yet, in the order in which it was placed. A slot whose CRC does not agree
        is left out, and `revision` changes so that the next boundary reads it again."""
        found: list[Order] = []
        for slot in range(SLOTS):
            try:
                order = _read_slot(self._page, slot)
            except CorruptData:
                self.torn += _TORN
                continue
            if order is None or self.words[_ANSWERED_WORD + slot] == order.revision:
                continue
            self._slots[order.id] = (slot, order.revision)
            if order.id in self._answered:  # a restarted daemon placed it again
                self.words[_ANSWERED_WORD + slot] = order.revision
            else:
                found.append(order)
        return sorted(found, key=lambda one: one.revision)

    def answered(self, order_id: str) -> None:
        """Frees the slot of that order. Unknown ids change nothing."""
        self._answered[order_id] = None
        if len(self._answered) > _ANSWERED_KEPT:
            self._answered.pop(next(iter(self._answered)))
        slot, revision = self._slots.pop(order_id, (-1, 0))
        if slot >= 0:
            self.words[_ANSWERED_WORD + slot] = revision

    def release(self) -> None:
        """Lets go of the mapping."""
        self.words.release()
        self._page.release()


class Placed(NamedTuple):
    """What became of an order: its slot, or why there is none."""

    slot: int
    refusal: str = ""


class PageWriter:
    """The daemon's side, through the spool's descriptor. What it needs to know it reads from the page, so that a daemon
    started again goes on where the last one was. One thread at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def place(self, order: Order, now: float) -> Placed:
        """Writes `order` into its slot; the same order twice changes nothing. `now` in seconds since 1970: a slot whose
        order is past its not_after is free. OSError and CorruptData if the file went away."""
        page = os.pread(self._fd, CONTROL_BYTES, CONTROL_OFFSET)
        if len(page) != CONTROL_BYTES:
            raise CorruptData("a spool was truncated while it was written", "its writer or someone else cut the file")
        answered = struct.unpack_from(f"@{SLOTS}Q", page, 8 * _ANSWERED_WORD)
        present = [_seen(page, slot) for slot in range(SLOTS)]
        for slot, held in enumerate(present):
            if held is not None and held.id == order.id:
                return Placed(slot)
        latest = present[LR_SLOT]
        if order.action in LR_ACTIONS and latest is not None and _intent_revision(order) < _intent_revision(latest):
            return Placed(LR_SLOT)  # read again after a restart: a newer one stands there already
        free = self._slot_for(order, present, answered, now)
        if free is None:
            return Placed(-1, "job has unanswered decisions")
        revision = struct.unpack_from("@Q", page)[0] + 1
        body = msgspec.json.encode(order)
        if len(body) > SLOT_BYTES - _SLOT_HEAD.size:
            return Placed(-1, f"its parameters take {len(body)} bytes, the job's page has {SLOT_BYTES - _SLOT_HEAD.size}")
        head = _SLOT_HEAD.pack(revision, zlib.crc32(body, revision & 0xFFFFFFFF), len(body))
        os.pwrite(self._fd, head + body, CONTROL_OFFSET + _offset(free))
        os.pwrite(self._fd, struct.pack("@Q", revision), CONTROL_OFFSET)
        return Placed(free)

    @staticmethod
    def _slot_for(order: Order, present: list[Order | None], answered: tuple[int, ...], now: float) -> int | None:
        if order.action in LR_ACTIONS:
            return LR_SLOT
        if order.action == "keep-best":
            series = series_of(order)
            for slot in STANDING_SLOTS:
                held = present[slot]
                if held is not None and series_of(held) == series:
                    return slot
            return next((slot for slot in STANDING_SLOTS if present[slot] is None), None)
        for slot in ONE_SHOT_SLOTS:
            held = present[slot]
            if held is None or answered[slot] == held.revision or held.not_after < now:
                return slot
        return None


def _intent_revision(order: Order) -> int:
    intent = order.params.get("intent")
    revision = intent.get("revision") if isinstance(intent, dict) else None
    return revision if isinstance(revision, int) else 1 << 62


def series_of(order: Order) -> str:
    """The series that a standing order is about."""
    return str(order.params.get("series") or order.params.get("monitor") or "")


def _seen(page: bytes, slot: int) -> Order | None:
    """As `_read_slot`; a slot that a killed daemon left half written counts as free."""
    try:
        return _read_slot(page, slot)
    except CorruptData:
        return None
