"""The learning rate as desired state: in force while the optimizer steps, the user's own at all other times.

A pre hook puts `max(lr * m, min(lr, min_lr))`, or the hold, into each group; the post hook puts the very object back
that was there. So schedulers, checkpoints and the script's own logs never see a learning rate that is not theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any
from weakref import ref

from ..core.intent import LrIntent, Rate
from .calm import Stepping
from .rates import NUMBERS, Placed, is_rate, sets_its_own, wanted

AS_IS = LrIntent()
AS_USUAL = Rate()
UNTOLD = object()
"""What no group has for a rate."""
MOST_SERIES = 8


class Guard(dict[str, Any]):
    """The keyword arguments of a step that uses other rates. torch's frame around the step holds them: where they go before
    the post hook has come, the step has raised (torch skips the post hooks then), and the user's rates are put back before
    the script goes on behind its `except`."""

    __slots__ = ("__weakref__",)


class Steering(Stepping):
    """The wanted learning rate of one optimizer, which the job calls `name`. `boundary` is called after each of its
    outermost steps. What the hooks read at every step has no underscore: a call would cost a step as much as the reading.

    `frame` is the hash of torch's wrapper around the step that goes on (its address, as id() would tell, which CPython audits:
    two more calls), 0 between steps, and `code` that wrapper's code;
    `steers` says whether rates are put in place for a step; `told` is the first group's rate where the series hold it; `calm`,
    where there is one, says whether a boundary is worth the call; `guard` has served a step and may serve the next.
    """

    __slots__ = (
        "_failed", "_guarded", "_handles", "_rates", "displaced", "intent", "name",
    )  # fmt: skip

    def __init__(self, optimizer: Any, boundary: Callable[[], None] | None = None, name: str = "0") -> None:
        self.optimizer = optimizer
        self.name = name
        self.boundary = boundary
        self.calm = None
        self.intent = AS_IS
        self.displaced = False
        self.overwritten = 0
        self.min_lr = 0.0
        self.steers = False
        self.told = UNTOLD
        self._rates: list[Rate] = []
        self._plan = []
        self.guard = None
        self._guarded: ref[Guard] | None = None
        self.frame = 0
        self.code = None
        self.placed = Placed()
        self._handles: list[Any] = []
        self._failed: Callable[[Exception], None] = _unheard

    def want(self, intent: LrIntent, min_lr: float = 0.0) -> None:
        """In force from the next step on; `min_lr` is a floor beside the intent's own."""
        self.intent, self.min_lr = intent, max(min_lr, intent.min_lr)
        self._rates, self._plan = [], []
        self.steers, self.told = not intent.unchanged, UNTOLD

    def own(self) -> list[float]:
        """The user's learning rate of each group that has one."""
        self.settle()
        return [float(group["lr"]) for group in self.optimizer.param_groups if is_rate(group.get("lr"))]

    def effective(self) -> list[float]:
        """What the next step will use, group by group."""
        self.settle()
        pairs = zip(self.optimizer.param_groups, self._of_groups(), strict=True)
        return [wanted(float(group["lr"]), rate, self.min_lr) for group, rate in pairs if is_rate(group.get("lr"))]

    @property
    def steerable(self) -> bool:
        """Whether there is a learning rate to change."""
        return sets_its_own(self.optimizer) or any(is_rate(group.get("lr")) for group in self.optimizer.param_groups)

    def names(self) -> list[tuple[str, ...]]:
        """What each group is called: its number, and its `name` where the job gave one."""
        named = ((str(i), group.get("name")) for i, group in enumerate(self.optimizer.param_groups))
        return [(number, name) if isinstance(name, str) else (number,) for number, name in named]

    def first(self) -> tuple[float, float] | None:
        """(own, effective) learning rate of the first group without a sync; None where it is no plain number."""
        if self.frame:
            self.settle()
        groups = self.optimizer.param_groups
        if not groups or self.placed.any:
            return None
        lr = groups[0].get("lr")
        return (lr, lr) if type(lr) is float and not self.steers else self._pair(groups[0], 0)

    def pairs(self) -> list[tuple[str, tuple[float, float]]]:
        """As `first`, of each group whose rate is a number, with the group's name."""
        if self.frame:
            self.settle()
        if self.placed.any:
            return []
        pairs = ((names[-1], self._pair(self.optimizer.param_groups[i], i)) for i, names in enumerate(self.names()))
        return [(name, pair) for name, pair in pairs if pair is not None]

    def _pair(self, group: dict[str, Any], number: int) -> tuple[float, float] | None:
        lr: Any = group.get("lr")
        if not isinstance(lr, NUMBERS):
            if getattr(lr, "is_cpu", False) is not True:
                return None
            lr = lr.item()
        return float(lr), wanted(float(lr), self._of_groups()[number], self.min_lr) if self.steers else float(lr)

    def was_told(self) -> None:
        """The series hold what the groups use. A tensor is read again each time: it changes in place."""
        groups = self.optimizer.param_groups
        lr = groups[0].get("lr") if groups and not self.placed.any else UNTOLD
        self.told = lr if lr is None or isinstance(lr, NUMBERS) else UNTOLD

    def place(self, optimizer: Any, kwargs: dict[str, Any]) -> Guard:
        """Puts the wanted rates in place for a step of `optimizer`, which has the groups of this one. Returns what the step is
        to get in place of `kwargs`."""
        guard: Guard | None = self.guard
        self.guard = None
        if guard is None or kwargs:
            guard = Guard(kwargs)
            self._guarded = ref(guard, self._lost)
        groups, placed, number, others = self.optimizer.param_groups, self.placed, 0, False
        if len(self._plan) != len(groups):
            self._of_groups()
        plan, placed.any = self._plan, True
        for group in groups:  # a count costs a step less than what would pair the two
            rate = plan[number]
            number += 1
            if rate is None:
                continue
            lr = group.get("lr")
            if type(lr) is not float:
                others = True
                continue
            multiplier, used = rate
            if used is None:  # else it is held
                used = lr * multiplier
                if used < self.min_lr:
                    used = max(used, min(lr, self.min_lr))
            placed.groups.append((group, lr, used))  # first: an interrupt may come in between
            group["lr"] = used
        if others:
            self._place_others(optimizer)
        return guard

    def settle(self) -> None:
        """Puts the user's learning rate back if a step raised (torch then skips the post hooks); a step that runs is left alone."""
        if self.frame and not self.stepping():
            self._put_back()

    def watch_state(self, failed: Callable[[Exception], None]) -> None:
        """From now on `state_dict()` of the optimizer holds the user's own rates even where it is called from inside a step
        (a closure, a signal's handler) or where a step has raised. `failed` hears what goes wrong here from now on."""
        self._failed = failed

        def before(_: Any) -> None:
            try:
                self.settle()
            except Exception as error:  # noqa: BLE001  # fail open: the job saves
                failed(error)

        def after(optimizer: Any, state: dict[str, Any]) -> None:
            try:
                if self.placed.any:
                    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
                        if "lr" in saved:
                            saved["lr"] = self.placed.own(group)
            except Exception as error:  # noqa: BLE001  # as above
                failed(error)

        if hasattr(self.optimizer, "_optimizer_state_dict_post_hooks"):  # a class without super().__init__() has none
            self._handles = [
                self.optimizer.register_state_dict_pre_hook(before),
                self.optimizer.register_state_dict_post_hook(after),
            ]

    def let_go(self) -> None:
        """The optimizer is its owner's alone, also where a step of it goes on: what ends the run there (a signal's handler, a
        closure) may save the optimizer next."""
        if self.frame:
            self._put_back()
        self.guard = self._guarded = None
        while self._handles:
            self._handles.pop().remove()

    def stepping(self) -> bool:
        """Whether the step that `begin` saw is still on this thread's stack. Its frame is known by hash and code only: a
        reference would keep the training's tensors alive."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if hash(frame) == self.frame and frame.f_code is self.code:
                return True
            frame = frame.f_back
        return False

    def _of_groups(self) -> list[Rate]:
        """The rate of each group, worked out again when groups were added or taken away."""
        if len(self._rates) != len(self.optimizer.param_groups):
            rates = [self.intent.rate(self.name, *names) for names in self.names()]
            plan = [None if rate == AS_USUAL else (rate.multiplier, rate.hold) for rate in rates]
            self._rates, self._plan = rates, plan  # both or none, where an interrupt comes
        return self._rates

    def _place_others(self, optimizer: Any) -> None:
        """What is no plain float: tensors, other numbers, and rates that the optimizer computes."""
        of_its_own: dict[int, Rate] = {}
        placed = {id(group) for group, _, _ in self.placed.groups}
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            lr = group.get("lr")
            if rate == AS_USUAL or id(group) in placed:
                continue
            if not is_rate(lr):
                of_its_own[id(group)] = rate
            elif hasattr(lr, "copy_"):
                self.placed.tensor(lr, rate, self.min_lr)
            else:
                self.placed.number(group, wanted(float(lr), rate, self.min_lr))
        if of_its_own and sets_its_own(optimizer):
            self.placed.function(optimizer, of_its_own, self.min_lr)

    def _lost(self, _: object) -> None:
        """The arguments of a step are gone and its post hook has not come."""
        try:
            self.settle()
        except Exception as error:  # noqa: BLE001  # as in the hooks
            self._failed(error)

    def _put_back(self) -> None:
        self.overwritten += self.placed.put_back()
        self.frame, self.code = 0, None


def are_one(one: Any, other: Any) -> bool:
    """Whether two optimizers step the same groups, as a wrapper and the optimizer in it do."""
    theirs, ours = one.param_groups, other.param_groups
    return one is other or (bool(theirs) and bool(ours) and theirs[0] is ours[0])


def series_of(steerings: Sequence[Steering]) -> dict[str, float]:
    """`lr` and `lr_effective` of the first group, and of several groups or optimizers (up to 8) each under its name."""
    pairs = [(steering, group, pair) for steering in steerings for group, pair in steering.pairs()]
    if not pairs:
        return {}
    told = {"lr": pairs[0][2][0], "lr_effective": pairs[0][2][1]}
    for steering, group, pair in pairs[:MOST_SERIES] if len(pairs) > 1 else ():
        name = "/".join(
            ([steering.name] if len(steerings) > 1 else []) + ([group] if len(steering.optimizer.param_groups) > 1 else [])
        )
        told |= {f"lr/{name}": pair[0], f"lr_effective/{name}": pair[1]}
    return told


def _unheard(_: Exception) -> None:
    """Nobody listens yet."""
