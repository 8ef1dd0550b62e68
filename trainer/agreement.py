"""Two phases, so that an order changes something at the same boundary on every rank, or on none.

    leader (rank 0)                         every other rank, in a thread of its own
    arm/N      orders                  ->   sets a hold some boundaries ahead, answers
    vote/N/R   hold, what it refuses   <-   waits at the hold, if it gets there, until
    plan/N     boundary, orders        ->   the plan says at which boundary they are due, or that they are not

The plan's boundary is the latest hold, so no rank has passed it. Threads answer and not the training: that may stand in a
collective which waits for the very rank that would wait for the answer. Whoever loses patience settles `plan/N` as void;
the store believes the first. At the boundary itself every rank says `at/N/R`, and once all are there the leader settles
`go/N/I` for each order, by the same rule: a rank that died meanwhile has not come.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ..bus.control_page import Order
from ..core.clock import Clock
from .gate import Due, Gate
from .ranks import Peer, Seat, Table, process_group
from .voice import Voice

VOTE_WAIT_S = 5.0
MEETING_WAIT_S = 5.0
POLL_S = 0.05
MOST_POLLS_PER_S = 1000
"""Of all ranks together: beyond 50 ranks each looks more rarely."""
_QUICK_S = 0.002
_CLOSE_WAIT_S = 2.0


class Agreement:
    """One rank's part. `refuse(order)` says why this rank cannot follow an order, or nothing."""

    def __init__(
        self,
        seat: Seat,
        open_table: Callable[[], Table | None],
        refuse: Callable[[Order], str],
        clock: Clock,
        voice: Voice,
    ) -> None:
        self.seat = seat
        self.gate = Gate(clock)
        self.table: Table | None = None
        self.trouble = ""
        self._open_table = open_table
        self._refuse = refuse
        self.clock = clock
        self._voice = voice
        self._closing = threading.Event()
        self._me = Peer.of_this_process()
        self._thread = threading.Thread(target=self._run, name="smart-tuner ranks", daemon=True)

    def begin(self) -> None:
        """Starts the thread that answers for this rank."""
        self._thread.start()

    def close(self) -> None:
        """This rank passes no boundary any more."""
        self._closing.set()
        self.gate.resolve(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_WAIT_S)

    def _run(self) -> None:
        try:
            self.table = self._wait_for_table()
            if self.table is not None:
                self._serve(self.table)
                self.table.put(f"gone/{self.seat.rank}", True)
        except Exception as error:  # noqa: BLE001  # the store is the job's: it may end at any time, in any way
            self.trouble = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            if not self._closing.is_set() and process_group() is not None:
                self._voice.once("ranks", f"rank {self.seat.rank} cannot agree with the others any more: {self.trouble}")
        finally:
            self.gate.resolve(None)
            self._ended()

    def _wait_for_table(self) -> Table | None:
        while not self._closing.is_set():
            table = self._open_table()
            if table is not None:
                return table
            self._closing.wait(POLL_S)
        return None

    def _serve(self, table: Table) -> None:
        raise NotImplementedError

    def _ended(self) -> None:
        """The thread is over."""


class Member(Agreement):
    """A rank above 0. `met(hello)` is told what the leader says of the run."""

    def __init__(self, *parts: Any, met: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(*parts)
        self._met = met
        self.leader = Peer()

    def leader_is_gone(self) -> bool:
        """Whether nothing is to be expected of rank 0 any more. May raise as the store does."""
        return self.leader.is_dead(self._me) or self.table is None or self.table.has("gone/0")

    def _serve(self, table: Table) -> None:
        table.put(f"here/{self.seat.rank}", self._me)
        pause, number, met = max(POLL_S, self.seat.world_size / MOST_POLLS_PER_S), 0, False
        while not self._closing.wait(pause):
            self.gate.sample()
            if not met and (hello := table.read("here/0")) is not None:
                self.leader = msgspec.convert(hello["peer"], Peer)
                self._met(hello)
                met = True
            if met and table.has("gone/0"):
                return  # before its store goes too
            if met and self.gate.due is None and (said := table.read(f"arm/{number}")) is not None:
                self._vote(table, number, msgspec.convert(said, list[Order]))
                number += 1

    def _vote(self, table: Table, number: int, orders: Sequence[Order]) -> None:
        refused = {order.id: why for order in orders if (why := self._refuse(order))}
        hold = self.gate.arm()
        table.put(f"vote/{number}/{self.seat.rank}", {"hold": hold, "refused": refused})
        plan = self._plan(table, number)
        kept = tuple(order for order in orders if order.id in plan.get("orders", ()))
        self.gate.resolve(Due(number, plan["at"], kept) if kept else None)

    def _plan(self, table: Table, number: int) -> dict[str, Any]:
        """What was decided; void, for all, where the leader is silent for too long."""
        until = self.clock.monotonic() + 2 * VOTE_WAIT_S
        while (plan := table.read(f"plan/{number}")) is None:
            silent = self.clock.monotonic() > until
            if silent or self._closing.is_set() or self.leader_is_gone():
                why = f"rank {self.seat.rank} " + ("waited too long" if silent else "is the only one left")
                plan = table.settle(f"plan/{number}", {"void": why})
                break
            self.clock.sleep(_QUICK_S)
        return dict(plan)


class Leader(Agreement):
    """Rank 0. `propose` what the daemon wants; what cannot be comes out of `refusals`, the rest at the gate."""

    def __init__(self, *parts: Any, hello: dict[str, Any]) -> None:
        super().__init__(*parts)
        self._hello = hello
        self.refusals: list[tuple[Order, str, str]] = []
        self._proposed: queue.SimpleQueue[list[Order] | None] = queue.SimpleQueue()
        self._peers: dict[int, Peer] = {}
        self._busy = False
        self._over = False
        self._number = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is being agreed on: one proposal at a time."""
        return not self._busy and self.gate.due is None

    def propose(self, orders: Sequence[Order]) -> None:
        """Called on the training thread, when idle."""
        if self._over:
            self.refusals += [(order, "failed", self.trouble or "the ranks' process group is gone") for order in orders]
            return
        self._busy = True
        self._proposed.put(list(orders))
        if self._over:  # it ended meanwhile
            self._ended()

    def taken_refusals(self) -> list[tuple[Order, str, str]]:
        """(order, status, reason) of what will not be, once each."""
        taken, self.refusals = self.refusals, []
        return taken

    def close(self) -> None:
        self._closing.set()
        self._proposed.put(None)
        super().close()

    def _wait_for_table(self) -> Table | None:
        while not self._closing.is_set():
            table = self._open_table()
            if table is not None:
                return table
            try:
                orders = self._proposed.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if orders and (table := self._open_table()) is not None:  # it came while they were waited for
                self._proposed.put(orders)
                return table
            if orders:
                self._refuse_all(orders, "the ranks share no store yet: torch.distributed is not initialised")
        return None

    def _serve(self, table: Table) -> None:
        table.put("here/0", self._hello | {"peer": self._me})
        while not self._closing.is_set():
            orders = self._proposed.get()
            if orders:
                try:
                    self._decide(table, orders)
                except Exception as error:
                    self._refuse_all(orders, f"the ranks could not agree: {error}".splitlines()[0])
                    raise
                self._busy = False

    def _decide(self, table: Table, orders: list[Order]) -> None:
        missing = self._missing(table)
        if missing:
            self._refuse_all(orders, f"{missing}: call attach on every rank")
            return
        number, self._number = self._number, self._number + 1
        refused = {order.id: f"rank 0: {why}" for order in orders if (why := self._refuse(order))}
        table.put(f"arm/{number}", orders)
        votes, void = self._votes(table, number)
        for rank, vote in votes.items():
            refused |= {one: f"rank {rank}: {why}" for one, why in vote["refused"].items()}
        kept = [] if void else [order for order in orders if order.id not in refused]
        at = max([self.gate.arm(0.0), *(vote["hold"] for vote in votes.values())]) if kept else 0
        void = void or self.lost(table)
        plan = table.settle(f"plan/{number}", {"void": void} if void else {"at": at, "orders": [order.id for order in kept]})
        void = plan.get("void", "")
        if void:
            self.refusals += [(order, "failed", f"not agreed: {void}") for order in orders]
        self.refusals += [(order, "refused", refused[order.id]) for order in orders if order.id in refused and not void]
        self.gate.resolve(Due(number, at, tuple(kept)) if kept and not void else None)

    def _missing(self, table: Table) -> str:
        """Which ranks have never been heard of, in words."""
        unknown = [rank for rank in range(1, self.seat.world_size) if rank not in self._peers]
        until = self.clock.monotonic() + MEETING_WAIT_S
        while unknown and not table.has(*(f"here/{rank}" for rank in unknown)):
            if self.clock.monotonic() > until or self._closing.is_set():
                unknown = [rank for rank in unknown if not table.has(f"here/{rank}")]
                if unknown:
                    return "rank " + ", ".join(map(str, unknown[:8])) + " is not attached"
                break
            self.clock.sleep(POLL_S)
        for rank in range(1, self.seat.world_size):
            if rank not in self._peers:
                self._peers[rank] = msgspec.convert(table.read(f"here/{rank}"), Peer)
        return ""

    def _votes(self, table: Table, number: int) -> tuple[dict[int, dict[str, Any]], str]:
        """The vote of each other rank, and why not all could be had."""
        ranks = range(1, self.seat.world_size)
        keys = [f"vote/{number}/{rank}" for rank in ranks]
        until = self.clock.monotonic() + VOTE_WAIT_S
        while not table.has(*keys):
            lost = self.lost(table) or ("the run ended" if self._closing.is_set() else "")
            if not lost and self.clock.monotonic() > until:
                silent = [str(rank) for rank in ranks if not table.has(f"vote/{number}/{rank}")]
                lost = f"rank {', '.join(silent[:8])} did not answer within {VOTE_WAIT_S:g} s" if silent else ""
            if lost:
                return {}, lost
            self.clock.sleep(_QUICK_S)
        return {rank: table.read(key) for rank, key in zip(ranks, keys, strict=True)}, ""

    def lost(self, table: Table) -> str:
        """A rank of which nothing more is to be expected, in words."""
        for rank, peer in self._peers.items():
            if peer.is_dead(self._me):
                return f"rank {rank} (pid {peer.pid}) has died"
            if table.has(f"gone/{rank}"):
                return f"rank {rank} has left"
        return ""

    def _refuse_all(self, orders: Sequence[Order], why: str) -> None:
        self.refusals += [(order, "failed", why) for order in orders]
        self._busy = False

    def _ended(self) -> None:
        self._over = True
        while not self._proposed.empty():
            self._refuse_all(self._proposed.get_nowait() or (), self.trouble or "the ranks' process group is gone")
        self._busy = False
