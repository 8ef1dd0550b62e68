"""A rank above 0: at the boundary that was agreed on it does what rank 0 does, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..bus.control_page import Order
from ..core.clock import Clock
from ..core.errors import Unavailable
from ..core.standing import LR_ACTIONS
from .abilities import Abilities, spread, wanted_weights
from .agreement import Member
from .parts import reset_if_not_finite
from .raised import described, let_through
from .ranks import Table
from .step_hooks import HOOKS
from .voice import Voice

GO_WAIT_S = 120.0
"""How long a rank waits at the boundary for rank 0 to come; it would wait for it in the next collective otherwise."""
DONE_WAIT_S = 600.0
_LEAST_POLL_S, _MOST_POLL_S = 0.0005, 0.02


class Following:
    """One such rank; `Ranks` to its attachment."""

    member: Member

    def __init__(self, abilities: Abilities, stop: Callable[[str], None], clock: Clock, voice: Voice) -> None:
        self.abilities = abilities
        self._stop = stop
        self._clock = clock
        self._voice = voice

    def met(self, hello: Mapping[str, Any]) -> None:
        """What rank 0 said of the run, on the agreeing thread."""
        self.abilities.others_model = str(hello.get("model", ""))
        self.abilities.effects.checkpoints.folder = Path(str(hello.get("checkpoints", "")))

    def boundary(self, step: int) -> None:
        """After a step."""
        due = self.member.gate.pass_boundary()
        if due is None:
            return
        late = due.at < self.member.gate.count
        if not late:
            self._table.put(f"at/{due.number}/{self.member.seat.rank}", step)
        for index, order in enumerate(due.orders):
            self._follow(f"{due.number}/{index}", order, step, late)
        self._table.put(f"taken/{due.number}/{self.member.seat.rank}", True)

    def tend(self, step: int) -> None:
        """Rank 0 answers."""

    def close(self) -> None:
        self.forget()
        self.member.close()

    def forget(self) -> None:
        """The optimizer is its owner's again."""
        for steering in self.abilities.effects.steerings:
            HOOKS.remove(steering)

    def _follow(self, key: str, order: Order, step: int, late: bool) -> None:
        go = self._wait(f"go/{key}", 0.0 if late else GO_WAIT_S, f"rank {self.member.seat.rank} waited too long")
        if "void" in go:
            return
        if go["calls"]:
            self._call(key, order)
        weights = wanted_weights(order)
        if order.action == "checkpoint":
            return
        if weights is not None and not go["calls"]:
            self._take_weights(key, weights)
        status = self._wait(f"result/{key}", DONE_WAIT_S).get("status")
        if status != "applied":
            return
        if order.action in LR_ACTIONS:
            self.abilities.effects.apply(order, step)
        elif order.action == "prune":
            self._stop(order.reason or f"decision {order.id}")

    def _call(self, key: str, order: Order) -> None:
        path = self._first(f"call/{key}", f"result/{key}")
        parts, why = self.abilities.parts, ""
        function = parts.save if order.action == "checkpoint" else parts.load
        if not isinstance(path, str):
            return  # refused before it came to that
        try:
            if function is not None:
                function(path)
        except Exception as error:  # noqa: BLE001  # the job's own function may raise anything: rank 0 answers with it
            let_through(error)
            why = described(error)
        self._table.put(f"called/{key}/{self.member.seat.rank}", why)

    def _take_weights(self, key: str, which: str | int) -> None:
        details = self._first(f"weights/{key}", f"result/{key}")
        if not isinstance(details, dict) or "which" not in details:
            return  # none were put back
        abilities = self.abilities
        if which != "best":
            abilities.effects.checkpoints.load(which)
        spread(abilities.parts.model)
        if which == "best" and abilities.parts.optimizer is not None:
            reset_if_not_finite(abilities.parts.optimizer)

    def _first(self, key: str, or_else: str) -> Any:
        """What rank 0 says under `key`; None once it has come to `or_else` without."""
        for _ in self._until(DONE_WAIT_S):
            there = self._table.read(key)
            if there is not None:
                return there
            if self._table.has(or_else):
                return self._table.read(key)
        return None

    def _wait(self, key: str, wait_s: float, void: str = "") -> dict[str, Any]:
        """What rank 0 says under `key`; void where it is gone, or (settled for all, with `void`) does not come."""
        for _ in self._until(wait_s):
            said = self._table.read(key)
            if said is not None:
                return dict(said)
        if void:
            return dict(self._table.settle(key, {"void": void}))
        self._voice.once("lost", f"rank {self.member.seat.rank} lost rank 0 over a decision")
        return {"void": "rank 0 is gone"}

    def _until(self, wait_s: float) -> Iterator[None]:
        """Turns of a wait that ends with the time, or once rank 0 has died and has been asked a last time."""
        pause, until = _LEAST_POLL_S, self._clock.monotonic() + wait_s
        while True:
            last = self.member.leader_is_gone() or self._clock.monotonic() > until
            yield None
            if last:
                return
            self._clock.sleep(pause)
            pause = min(2 * pause, _MOST_POLL_S)

    @property
    def _table(self) -> Table:
        if self.member.table is None:
            raise Unavailable("the ranks share no store")
        return self.member.table
