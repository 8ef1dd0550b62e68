"""Rank 0 of several: what was agreed is applied and answered here, and the other ranks are told how it went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..bus.control_page import Order
from ..core.errors import Unavailable
from ..core.events import Ack
from .abilities import spread, wanted_weights
from .agreement import Leader
from .checkpoints import Parts
from .gate import Due
from .raised import let_through
from .ranks import Table
from .voice import Voice

GATHER_WAIT_S = 120.0
CALLED_WAIT_S = 600.0
FAREWELL_WAIT_S = 10.0
_LEAST_POLL_S, _MOST_POLL_S = 0.0005, 0.02


class Leading:
    """The leader at its step boundaries; `Peers` to the control, `Ranks` to the attachment."""

    def __init__(self, parts: Parts, voice: Voice) -> None:
        self._leader: Leader | None = None
        self._answer: Callable[[Order, int], None] = _nowhere
        self._decline: Callable[[Order, Any, str, int], None] = _nowhere
        self._parts = parts
        self._voice = voice
        self._key = ""
        self._last = -1

    def lead(self, leader: Leader, answer: Callable[[Order, int], None], decline: Callable[[Order, Any, str, int], None]) -> None:
        """From here on orders are agreed on: `answer` does one at a step, `decline` says why one will not be."""
        self._answer, self._decline, self._leader = answer, decline, leader

    @property
    def idle(self) -> bool:
        return self._leader is not None and self._leader.idle

    def propose(self, orders: list[Order]) -> None:
        if self._leader is not None:
            self._leader.propose(orders)

    def boundary(self, step: int) -> None:
        """After a step; what is due here is done, what cannot be is declined."""
        leader = self._leader
        if leader is None:
            return
        due = leader.gate.pass_boundary()
        if due is not None:
            void = self._gather(leader, due)
            for index, order in enumerate(due.orders):
                self._key = f"{due.number}/{index}"
                if void:
                    self._table.settle(f"go/{self._key}", {"void": void})
                    self._decline(order, "failed", f"not agreed: {void}", step)
                else:
                    self._answer(order, step)
            self._key, self._last = "", due.number
        if leader.refusals:
            self.tend(step)

    def tend(self, step: int) -> None:
        """What was not agreed on is answered; also where no boundary is ever passed."""
        for order, status, why in self._leader.taken_refusals() if self._leader is not None else ():
            self._decline(order, status, why, step)

    def go(self, order: Order) -> None:
        """From here on it happens on every rank; Unavailable where one of them has given up."""
        weights = wanted_weights(order)
        by_checkpoint = self._parts.save if order.action == "checkpoint" else None
        by_restore = self._parts.load if weights not in (None, "best") else None
        calls = by_checkpoint is not None or by_restore is not None
        said = self._table.settle(f"go/{self._key}", {"calls": calls})
        if "void" in said:
            raise Unavailable(f"not agreed: {said['void']}")

    def done(self, ack: Ack) -> None:
        """How it ended here: the others follow only what was applied."""
        try:
            self._table.put(f"result/{self._key}", {"status": ack.status})
        except Exception as error:  # noqa: BLE001  # the store fails in its own ways; the answer is given all the same
            let_through(error)
            self._voice.once("result", f"the other ranks could not be told about decision {ack.id}: {error}")

    def shared(self, parts: Parts) -> Parts:
        """`parts`, with the job's own functions called on every rank at once."""
        return replace(parts, save=self._together(parts.save), load=self._together(parts.load))

    def sharing(self, restored: Callable[[int, dict[str, Any]], None]) -> Callable[[int, dict[str, Any]], None]:
        """`restored`, after the other ranks have got the same weights."""

        def shared(step: int, details: dict[str, Any]) -> None:
            self._share_weights(details)
            restored(step, details)

        return shared

    def close(self) -> None:
        if self._leader is not None:
            try:
                self._wait_for_farewells(self._leader)
            except Exception as error:  # noqa: BLE001  # as in `done`
                let_through(error)
                self._voice.once("farewell", f"whether the other ranks know how the last decision ended is not known: {error}")
            self._leader.close()

    def forget(self) -> None:
        """In the child of a fork: the thread is the parent's."""
        self._leader = None

    def _together(self, function: Callable[[str], object] | None) -> Callable[[str], object] | None:
        """`function` of the job's, so that it runs on every rank at once: it may take part in collectives."""
        if function is None:
            return None
        own = function

        def on_every_rank(path: str) -> object:
            leader, key = self._leader, self._key
            if leader is None or not key:
                return own(path)
            table = self._table
            table.put(f"call/{key}", path)
            result = own(path)
            self._wait_for_calls(leader, table, key)
            return result

        return on_every_rank

    def _share_weights(self, details: Mapping[str, Any]) -> None:
        """Weights were put back here: the other ranks get the same ones, unless a function of the job's did that on each."""
        if self._key and (details.get("which") == "best" or self._parts.load is None):
            self._table.put(f"weights/{self._key}", dict(details))
            spread(self._parts.model)

    @property
    def _table(self) -> Table:
        if self._leader is None or self._leader.table is None:
            raise Unavailable("the ranks share no store")
        return self._leader.table

    def _gather(self, leader: Leader, due: Due) -> str:
        """Waits until every rank has come to this boundary; why they have not. Ranks that share their steps wait here for
        what they would wait for in their next collective."""
        if due.at < leader.gate.count:
            return "rank 0 gave up waiting for the others"
        keys = [f"at/{due.number}/{rank}" for rank in range(1, leader.seat.world_size)]
        pause, until = _LEAST_POLL_S, leader.clock.monotonic() + GATHER_WAIT_S
        while not self._table.has(*keys):
            if self._table.has(f"go/{due.number}/0"):
                return "a rank gave up waiting for the others"
            lost = leader.lost(self._table) or ("a rank did not come" if leader.clock.monotonic() > until else "")
            if lost:
                return lost
            leader.clock.sleep(pause)
            pause = min(2 * pause, _MOST_POLL_S)
        return ""

    def _wait_for_farewells(self, leader: Leader) -> None:
        """The store often ends with this process: before, the others are to know how what was agreed on last has ended."""
        if self._last < 0 or leader.table is None:
            return
        keys = [f"taken/{self._last}/{rank}" for rank in range(1, leader.seat.world_size)]
        pause, until = _LEAST_POLL_S, leader.clock.monotonic() + FAREWELL_WAIT_S
        while not leader.table.has(*keys) and not leader.lost(leader.table) and leader.clock.monotonic() < until:
            leader.clock.sleep(pause)
            pause = min(2 * pause, _MOST_POLL_S)

    def _wait_for_calls(self, leader: Leader, table: Table, key: str) -> None:
        clock, pause = leader.clock, _LEAST_POLL_S
        until = clock.monotonic() + CALLED_WAIT_S
        for rank in range(1, leader.seat.world_size):
            while (why := table.read(f"called/{key}/{rank}")) is None:
                lost = leader.lost(table) or ("a rank took too long" if clock.monotonic() > until else "")
                if lost:
                    raise Unavailable(lost)
                clock.sleep(pause)
                pause = min(2 * pause, _MOST_POLL_S)
            if why:
                raise Unavailable(f"rank {rank}: {why}")


def _nowhere(*_: Any) -> None:
    """Until the control is there."""
