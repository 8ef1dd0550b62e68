"""The learning rate as desired state: in force while the optimizer steps, the user's own at all other times.

A pre hook puts `max(lr * m, min(lr, min_lr))`, or the hold, into each group; the post hook puts the very object back
that was there. So schedulers, checkpoints and the script's own logs never see a learning rate that is not theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

from ..core.intent import LrIntent, Rate
from .rates import NUMBERS, Placed, is_rate, sets_its_own, wanted

AS_IS = LrIntent()
AS_USUAL = Rate()
MOST_SERIES = 8


class Steering:
    """The wanted learning rate of one optimizer, which the job calls `name`. `boundary` is called after each of its
    outermost steps."""

    def __init__(self, optimizer: Any, boundary: Callable[[], None] | None = None, name: str = "0") -> None:
        self.optimizer = optimizer
        self.name = name
        self.boundary = boundary
        self.intent = AS_IS
        self.displaced = False
        self.overwritten = 0
        self.min_lr = 0.0
        self._steers = False
        self._rates: list[Rate] = []
        self._number = 0
        self._frame = 0
        self._code: CodeType | None = None
        self._placed = Placed()
        self._handles: list[Any] = []

    def want(self, intent: LrIntent, min_lr: float = 0.0) -> None:
        """In force from the next step on; `min_lr` is a floor beside the intent's own."""
        self.intent, self.min_lr = intent, max(min_lr, intent.min_lr)
        self._rates = []
        self._steers = not intent.unchanged

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
        if self._frame:
            self.settle()
        groups = self.optimizer.param_groups
        return self._pair(groups[0], 0) if groups and not self._placed else None

    def pairs(self) -> list[tuple[str, tuple[float, float]]]:
        """As `first`, of each group whose rate is a number, with the group's name."""
        if self._frame:
            self.settle()
        if self._placed:
            return []
        pairs = ((names[-1], self._pair(self.optimizer.param_groups[i], i)) for i, names in enumerate(self.names()))
        return [(name, pair) for name, pair in pairs if pair is not None]

    def _pair(self, group: dict[str, Any], number: int) -> tuple[float, float] | None:
        lr: Any = group.get("lr")
        if not isinstance(lr, NUMBERS):
            if getattr(lr, "is_cpu", False) is not True:
                return None
            lr = lr.item()
        return float(lr), wanted(float(lr), self._of_groups()[number], self.min_lr) if self._steers else float(lr)

    def begin(self, optimizer: Any, frame: FrameType) -> int:
        """Before a step of any optimizer; `frame` is torch's wrapper around that step. The number of the step where a rate
        was put in place for it, else 0."""
        if optimizer is not self.optimizer and not have_groups_in_common(optimizer, self.optimizer):
            return 0
        if self._frame:
            if self._stepping():  # a wrapper (Lookahead) or a subclass steps inside its own step: scaled once
                return 0
            self.settle()
        self._frame, self._code = id(frame), frame.f_code
        if not self._steers:
            return 0
        self._number += 1
        self._place(optimizer)
        return self._number

    def over(self, number: int) -> None:
        """Step `number` is over, with or without its post hooks."""
        if self._frame and number == self._number:
            self.settle()

    def end(self, frame: FrameType) -> None:
        """After a step of any optimizer: puts back what `begin` of the same step replaced, then it is a boundary."""
        if id(frame) != self._frame:
            return
        self._put_back()
        if self.boundary is not None:
            self.boundary()

    def settle(self) -> None:
        """Puts the user's learning rate back if a step raised (torch then skips the post hooks); a step that runs is left alone."""
        if self._frame and not self._stepping():
            self._put_back()

    def watch_state(self, failed: Callable[[Exception], None]) -> None:
        """From now on `state_dict()` of the optimizer holds the user's own rates even where it is called from inside a step
        (a closure, a signal's handler) or where a step has raised."""

        def before(_: Any) -> None:
            try:
                self.settle()
            except Exception as error:  # noqa: BLE001  # fail open: the job saves
                failed(error)

        def after(optimizer: Any, state: dict[str, Any]) -> None:
            try:
                if self._placed:
                    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
                        if "lr" in saved:
                            saved["lr"] = self._placed.own(group)
            except Exception as error:  # noqa: BLE001  # as above
                failed(error)

        if hasattr(self.optimizer, "register_state_dict_post_hook"):
            self._handles = [
                self.optimizer.register_state_dict_pre_hook(before),
                self.optimizer.register_state_dict_post_hook(after),
            ]

    def let_go(self) -> None:
        """The optimizer is its owner's alone."""
        self.settle()
        while self._handles:
            self._handles.pop().remove()

    def _stepping(self) -> bool:
        """Whether the step that `begin` saw is still on this thread's stack. Its frame is known by id and code only: a
        reference would keep the training's tensors alive."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if id(frame) == self._frame and frame.f_code is self._code:
                return True
            frame = frame.f_back
        return False

    def _of_groups(self) -> list[Rate]:
        """The rate of each group, worked out again when groups were added or taken away."""
        if len(self._rates) != len(self.optimizer.param_groups):
            rates = [self.intent.rate(self.name, *names) for names in self.names()]
            self._rates = [AS_USUAL if rate == AS_USUAL else rate for rate in rates]
        return self._rates

    def _place(self, optimizer: Any) -> None:
        of_its_own: dict[int, Rate] | None = None
        for group, rate in zip(self.optimizer.param_groups, self._of_groups(), strict=True):
            if rate is AS_USUAL:
                continue
            lr = group.get("lr")
            if type(lr) is float:
                multiplier, placed = rate  # `wanted`, spelled out here: this is paid for at every step
                if placed is None:
                    floor, placed = self.min_lr, lr * multiplier
                    if placed < floor:
                        placed = max(placed, min(lr, floor))
                group["lr"] = placed
                self._placed.groups.append((group, lr, placed))
            elif not is_rate(lr):
                of_its_own = of_its_own or {}
                of_its_own[id(group)] = rate
            elif hasattr(lr, "copy_"):
                self._placed.tensor(lr, rate, self.min_lr)
            else:
                self._placed.number(group, wanted(float(lr), rate, self.min_lr))
        if of_its_own and sets_its_own(optimizer):
            self._placed.function(optimizer, of_its_own, self.min_lr)

    def _put_back(self) -> None:
        self._frame, self._code = 0, None
        if self._placed:
            self.overwritten += self._placed.put_back()


def have_groups_in_common(one: Any, other: Any) -> bool:
    """Whether two optimizers step the same groups, as a wrapper and the optimizer in it do."""
    theirs, ours = one.param_groups, other.param_groups
    return bool(theirs) and bool(ours) and theirs[0] is ours[0]


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


class StepHooks:
    """torch's hooks around every optimizer step of this process, registered once, for all attachments."""

    def __init__(self) -> None:
        self.steerings: tuple[Steering, ...] = ()
        self.failures = 0
        self.last_failure = ""
        self._handles: list[Any] = []

    def add(self, steering: Steering) -> None:
        """Begins to steer. Of several attachments to one optimizer the newest does; the older hear its boundaries only."""
        for other in self.steerings:
            if other.optimizer is steering.optimizer or have_groups_in_common(other.optimizer, steering.optimizer):
                other.settle()
                other.want(AS_IS)
                other.displaced = True
        if not self._handles:
            from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

            self._handles = [register_optimizer_step_pre_hook(_before_step), register_optimizer_step_post_hook(_after_step)]
        self.steerings = (*self.steerings, steering)
        steering.watch_state(self.failed)

    def remove(self, steering: Steering) -> None:
        """The optimizer is its owner's again; without attachments no hook stays."""
        steering.let_go()
        self.steerings = tuple(one for one in self.steerings if one is not steering)
        if not self.steerings:
            handles, self._handles = self._handles, []
            for handle in handles:
                handle.remove()

    def failed(self, error: Exception) -> None:
        """Counts: a hook of ours never reaches the training."""
        self.failures += 1
        self.last_failure = f"{type(error).__name__}: {error}"


HOOKS = StepHooks()  # torch's own hooks are a process-wide table, so this is too


class Guard(dict[str, Any]):
    """The keyword arguments of a step that uses other rates. They go with torch's frame around it: so the user's rates come
    back where the step raised, whose post hooks torch skips, before the script goes on behind its `except`."""

    __slots__ = ("steps",)  # without: a dict more, made at every step

    def __init__(self, kwargs: dict[str, Any], steps: tuple[tuple[Steering, int], ...] = ()) -> None:
        super().__init__(kwargs)
        self.steps = steps

    def __del__(self) -> None:
        for steering, number in self.steps:
            try:
                steering.over(number)
            except Exception as error:  # noqa: BLE001  # as in the hooks
                HOOKS.failed(error)


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Guard] | None:
    guard: Guard | None = None
    for steering in HOOKS.steerings:
        try:
            number = steering.begin(optimizer, sys._getframe(1))
            if number:
                if guard is None:
                    guard = Guard(kwargs, ((steering, number),))
                else:
                    guard.steps += ((steering, number),)
        except Exception as error:  # noqa: BLE001  # fail open: the job goes on
            HOOKS.failed(error)
    return None if guard is None else (args, guard)


def _after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    for steering in HOOKS.steerings:
        try:
            steering.end(sys._getframe(1))
        except Exception as error:  # noqa: BLE001  # fail open: the job goes on
            HOOKS.failed(error)


# A compiled optimizer would trace into them otherwise.
_before_step._torchdynamo_disable = True  # type: ignore[attr-defined]  # a mark that dynamo looks for on the function
_after_step._torchdynamo_disable = True  # type: ignore[attr-defined]  # likewise
