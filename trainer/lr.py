"""The learning rate as desired state: in force while the optimizer steps, the user's own at all other times.

A pre hook puts `max(lr * m, min(lr, min_lr))`, or the hold, into each group; the post hook puts the very object back
that was there. So schedulers, checkpoints and the script's own logs never see a learning rate that is not theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from ..core.events import LARGEST_LR, LrIntent

AS_IS = LrIntent()
NUMBERS = (float, int)


class Steering:
    """The wanted learning rate of one optimizer. `boundary` is called after each of its outermost steps."""

    def __init__(self, optimizer: Any, boundary: Callable[[], None] | None = None) -> None:
        self.optimizer = optimizer
        self.boundary = boundary
        self.intent = AS_IS
        self.min_lr = 0.0
        self.displaced = False
        self._frame = 0
        self._code: CodeType | None = None
        self._placed: list[tuple[dict[str, Any], Any, float]] = []
        self._tensors: list[tuple[Any, Any]] = []

    def want(self, intent: LrIntent, min_lr: float = 0.0) -> None:
        """In force from the next step on."""
        self.intent, self.min_lr = intent, min_lr

    def own(self) -> list[float]:
        """The user's learning rate of each group that has one."""
        self.settle()
        return [float(group["lr"]) for group in self.optimizer.param_groups if _is_rate(group.get("lr"))]

    def effective(self) -> list[float]:
        """What the next step will use, group by group."""
        return [self._wanted(lr) for lr in self.own()]

    def first(self) -> tuple[float, float] | None:
        """(own, effective) learning rate of the first group without a sync; None where it is no plain number."""
        if self._frame:
            self.settle()
        groups = self.optimizer.param_groups
        lr = groups[0].get("lr") if groups else None
        return (float(lr), self._wanted(float(lr))) if isinstance(lr, NUMBERS) and not self._placed else None

    def begin(self, optimizer: Any, frame: FrameType) -> None:
        """Before a step of any optimizer; `frame` is torch's wrapper around that step."""
        if optimizer is not self.optimizer and not self._shares(optimizer):
            return
        if self._frame:
            if self._stepping():
                return  # a wrapper (Lookahead) or a subclass steps inside its own step: scaled once, by the outermost
            self.settle()
        self._frame, self._code = id(frame), frame.f_code
        if self.intent.hold is not None or self.intent.multiplier != 1.0:
            self._place()

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

    def _shares(self, optimizer: Any) -> bool:
        theirs, ours = optimizer.param_groups, self.optimizer.param_groups
        return bool(theirs) and bool(ours) and theirs[0] is ours[0]

    def _stepping(self) -> bool:
        """Whether the step that `begin` saw is still on this thread's stack. Its frame is known by id and code only: a
        reference would keep the training's tensors alive."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if id(frame) == self._frame and frame.f_code is self._code:
                return True
            frame = frame.f_back
        return False

    def _wanted(self, lr: float) -> float:
        if self.intent.hold is not None:
            return self.intent.hold
        return max(lr * self.intent.multiplier, min(lr, self.min_lr))

    def _place(self) -> None:
        for group in self.optimizer.param_groups:
            lr = group.get("lr")
            if type(lr) is not float:
                if not _is_rate(lr):
                    continue
                if hasattr(lr, "copy_"):
                    self._place_tensor(lr)
                    continue
            wanted = group["lr"] = self._wanted(float(lr))
            self._placed.append((group, lr, wanted))

    def _place_tensor(self, lr: Any) -> None:
        if any(lr is placed for placed, _ in self._tensors):  # groups may share one tensor: once is enough
            return
        own = lr.detach().clone()
        self._tensors.append((lr, own))
        target = lr.detach()
        if self.intent.hold is not None:
            target.fill_(self.intent.hold)
        else:  # the same formula without reading the value: no sync
            target.copy_((own * self.intent.multiplier).maximum(own.clamp(max=self.min_lr)))

    def _put_back(self) -> None:
        self._frame, self._code = 0, None
        for group, own, wanted in self._placed:
            if group.get("lr") is wanted:  # else its owner wrote a new one during the step, which stands
                group["lr"] = own
        self._placed.clear()
        while self._tensors:
            tensor, own = self._tensors.pop()
            tensor.detach().copy_(own)


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
            if other.optimizer is steering.optimizer:
                other.settle()
                other.want(AS_IS)
                other.displaced = True
        if not self._handles:
            from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

            self._handles = [register_optimizer_step_pre_hook(_before_step), register_optimizer_step_post_hook(_after_step)]
        self.steerings = (*self.steerings, steering)

    def remove(self, steering: Steering) -> None:
        """The optimizer is its owner's again; without attachments no hook stays."""
        steering.settle()
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


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    for steering in HOOKS.steerings:
        try:
            steering.begin(optimizer, sys._getframe(1))
        except Exception as error:  # noqa: BLE001  # fail open: the job goes on
            HOOKS.failed(error)


def _after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    for steering in HOOKS.steerings:
        try:
            steering.end(sys._getframe(1))
        except Exception as error:  # noqa: BLE001  # fail open: the job goes on
            HOOKS.failed(error)


# A compiled optimizer would trace into them otherwise.
_before_step._torchdynamo_disable = True  # type: ignore[attr-defined]  # a mark that dynamo looks for on the function
_after_step._torchdynamo_disable = True  # type: ignore[attr-defined]  # likewise


def _is_rate(lr: Any) -> bool:
    """Adafactor and others have groups whose lr is None."""
    if isinstance(lr, bool) or lr is None:
        return False
    return isinstance(lr, NUMBERS) or hasattr(lr, "item")


def sane(intent: LrIntent, min_lr: float) -> bool:
    """Whether a learning rate intent can be put in force: not negative, and nothing at which an optimizer raises."""
    numbers = (intent.multiplier, min_lr, 0.0 if intent.hold is None else intent.hold)
    return all(0 <= number <= LARGEST_LR for number in numbers)
