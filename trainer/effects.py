"""What an order does to the training: the learning rate, best weights, checkpoints, the end of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..bus.control_page import Order
from ..core.errors import Forbidden
from ..core.intent import LARGEST_LR, LrIntent
from .checkpoints import Checkpoints
from .keep_best import KeepBest
from .lr import Steering
from .parts import reset_if_not_finite
from .raised import described, let_through


class Change(NamedTuple):
    """What an order changed; `note` goes into the reason of the acknowledgement."""

    before: Any = None
    after: Any = None
    note: str = ""


@dataclass
class Effects:
    """The effects of one attachment. `intent` is the learning rate that is wanted now; a scaled one never falls below `min_lr`.
    `restored(step, details)` and `stop(reason)` tell the attachment what happened. Forbidden where the job does not have
    what the order needs, any other exception where it failed."""

    steerings: list[Steering]
    checkpoints: Checkpoints
    keep_best: KeepBest
    restored: Callable[[int, dict[str, Any]], None]
    stop: Callable[[str], None]
    may_restore: bool = True
    min_lr: float = 0.0
    intent: LrIntent = field(default_factory=LrIntent)
    _floor: float = 0.0

    def want(self, intent: LrIntent, floor: float = 0.0) -> None:
        """From the next step on, also of optimizers that come later."""
        self.intent, self._floor = intent, max(self.min_lr, floor)
        for one in self.steerings:
            one.want(intent, self._floor)

    def steer(self, steerings: list[Steering]) -> None:
        """These take the place of those that there were."""
        self.steerings[:] = steerings
        self.want(self.intent, self._floor)

    def apply(self, order: Order, step: int) -> Change:
        """Does what `order` says, at a step boundary."""
        match order.action:
            case "scale-lr" | "set-lr" | "release-lr":
                return self._steer(order)
            case "keep-best":
                return self._keep(order.params)
            case "checkpoint":
                return Change(after=str(self.checkpoints.save(step)))
            case "restore":
                return self._restore(order.params, step)
            case "prune":
                return self._prune(order, step)
        raise Forbidden("unknown action")

    def _steer(self, order: Order) -> Change:
        params = order.params
        try:
            intent = msgspec.convert(params["intent"], LrIntent)
            floor = max(self.min_lr, float(params.get("min_lr") or 0.0))
        except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
            raise Forbidden(f"no learning rate can be read from {params}: {error}") from error
        if not self.steerings:
            raise Forbidden("no optimizer was given", "pass optimizer= to attach, or to run.steer later")
        if not (intent.fits and floor <= LARGEST_LR):
            raise Forbidden(f"{params['intent']} is no learning rate")
        if any(one.displaced for one in self.steerings):
            raise Forbidden("a newer attachment steers this optimizer")
        if not any(one.steerable for one in self.steerings):
            raise Forbidden("the optimizer has no learning rate of its own (lr is None)")
        self._check_target(order, intent)
        before = told(self.steerings)
        self.want(intent, floor)
        return Change(before, told(self.steerings))

    def _check_target(self, order: Order, intent: LrIntent) -> None:
        """What is named exists, and one value for everything takes the place of one value."""
        params = order.params
        optimizer, groups = params.get("optimizer"), params.get("groups", params.get("group"))
        named = {one.name: {name for names in one.names() for name in names} for one in self.steerings}
        if optimizer is not None and str(optimizer) not in named:
            raise Forbidden(f"no optimizer is called {optimizer}", "there are: " + ", ".join(named))
        there = set().union(*named.values()) if optimizer is None else named[str(optimizer)]
        targets = {str(group) for group in (groups if isinstance(groups, list) else [] if groups is None else [groups])}
        if unknown := targets - there:
            raise Forbidden(f"no parameter group is called {min(unknown)}", "there are: " + ", ".join(sorted(there)))
        for one in self.steerings:
            used = {part.group for part in intent.parts if part.optimizer in (None, one.name)}
            _check_names(one, used | (targets if optimizer in (None, one.name) else set()))
        if order.action == "set-lr" and optimizer is None and groups is None and not params.get("inherited"):
            rates = sorted({rate for one in self.steerings for rate in one.own()})
            if len(rates) > 1:
                said = ", ".join(f"{rate:g}" for rate in rates[:4])
                raise Forbidden(
                    f"the groups have learning rates of their own ({said})", "name one with optimizer or group, or scale-lr"
                )

    def _keep(self, params: dict[str, Any]) -> Change:
        series, goal = params.get("series") or params.get("monitor"), params.get("goal", "min")
        if not isinstance(series, str) or goal not in ("min", "max"):
            raise Forbidden(f"no series and goal can be read from {params}")
        best, step = params.get("best"), params.get("step")
        kept = self.keep_best.start(
            series,
            goal,
            float(params.get("min_delta") or 0.0),
            None if best is None else float(best),
            None if step is None else int(step),
        )
        return Change(before=kept, after=series, note="" if kept else f"from the next best {series} on")

    def _restore(self, params: dict[str, Any], step: int) -> Change:
        which = next((params[name] for name in ("which", "to", "restore", "step") if params.get(name) is not None), "best")
        if isinstance(which, str) and which.isdecimal():
            which = int(which)
        if which == "best":
            series = params.get("series")
            kept = self.keep_best.restore(series if isinstance(series, str) else None)
            optimizer = self.checkpoints.parts.optimizer
            forgotten = optimizer is not None and reset_if_not_finite(optimizer)
            where = "on disk" if isinstance(kept.weights, Path) else "in memory"
            note = f"the weights of step {kept.step} ({kept.series} {kept.value:g}), kept {where}"
            note += "; the optimizer's moments held a NaN and were forgotten" if forgotten else ""
            self.restored(kept.step, {"which": "best", "series": kept.series, "value": kept.value, "at": step})
            return Change(step, kept.step, note)
        if which != "last" and not isinstance(which, int):
            raise Forbidden(f"restore knows best, last or a step, not {which!r}")
        of, path = self.checkpoints.load(which)
        self.keep_best.new_segment()
        self.restored(of, {"which": which, "checkpoint": str(path), "at": step})
        return Change(step, of, f"{self.checkpoints.brings_back} from {path}; the schedule, its rate and the random numbers go on")

    def _prune(self, order: Order, step: int) -> Change:
        note, after = "", None
        if order.params.get("restore"):
            if not self.may_restore:
                note = "weights not restored: the job does not allow restore"
            else:
                try:
                    back = self._restore(order.params, step)
                    note, after = back.note, {"restored": back.after}
                except Exception as error:  # noqa: BLE001  # the user's own function may raise anything; the run ends all the same
                    let_through(error)
                    note = f"weights not restored: {described(error)}"
        self.stop(order.reason or f"decision {order.id}")
        return Change(None, after, note)


def _check_names(steering: Steering, used: set[str | None]) -> None:
    """A rate that is kept under two names of one group would change under one and stand under the other. A daemon knows the
    names of the groups that were given to attach, and uses one each."""
    for number, *name in steering.names():
        if name and number != name[0] and used.issuperset((number, *name)):
            raise Forbidden(
                f"group {name[0]} is group {number}: its rate is kept under one of them", "use the other, or release-lr all"
            )


def told(steerings: Sequence[Steering]) -> Any:
    """The learning rates in force as a person reads them: one number where all agree, a number or a list for each of several
    optimizers by name."""
    by_name = {one.name: _short(one.effective()) if one.effective() else _of_its_own(one) for one in steerings}
    each = list(by_name.values())
    return each[0] if len(each) == 1 or (all(one == each[0] for one in each) and isinstance(each[0], float)) else by_name


def _short(rates: list[float]) -> float | list[float]:
    """One number where all groups agree."""
    return rates[0] if len(set(rates)) == 1 else rates


def _of_its_own(steering: Steering) -> str:
    """An optimizer that computes its rate has no number before its step."""
    rate = steering.intent.rate(steering.name, "0")
    return f"{rate.hold:g}" if rate.hold is not None else f"its own x {rate.multiplier:g}"
