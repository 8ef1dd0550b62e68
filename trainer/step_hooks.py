"""torch's hooks around every optimizer step of this process, registered once for all that is attached to it."""

from __future__ import annotations

import sys
from sys import _getframe as frame_at
from types import FrameType
from typing import Any

from .calm import hooks
from .lr import AS_IS, Guard, Steering, are_one
from .raised import described, let_through


class StepHooks:
    """The steerings of this process. `known` are those of each optimizer that somebody named, by its id; `only` is that
    optimizer where there is one steering: a look at it is no call, and to ask for an id is three (CPython audits it)."""

    __slots__ = ("_handles", "failures", "known", "last_failure", "only", "steerings")

    def __init__(self) -> None:
        self.steerings: tuple[Steering, ...] = ()
        self.known: dict[int, tuple[Steering, ...]] = {}
        self.only: Any = None
        self.failures = 0
        self.last_failure = ""
        self._handles: list[Any] = []

    def add(self, steering: Steering) -> None:
        """Begins to steer. Of several attachments to one optimizer the newest does; the older hear its boundaries only."""
        for other in self.steerings:
            if are_one(other.optimizer, steering.optimizer):
                other.settle()
                other.want(AS_IS)
                other.displaced = True
        self.steerings = (*self.steerings, steering)
        self._know()
        if not self._handles:
            from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

            before, after = (_before_step, _after_step) if hooks is None else (hooks.before_step, hooks.after_step)
            self._handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
        steering.watch_state(self.failed)

    def remove(self, steering: Steering) -> None:
        """The optimizer is its owner's again; without attachments no hook stays, but within a step, whose caller goes through
        torch's table of hooks: they do nothing then, and serve the next attachment."""
        steering.let_go()
        self.steerings = tuple(one for one in self.steerings if one is not steering)
        self._know()
        if not self.steerings and not _is_in_a_step():
            handles, self._handles = self._handles, []
            for handle in handles:
                handle.remove()

    def of(self, optimizer: Any) -> tuple[Steering, ...]:
        """Those of an optimizer, which may be one that nobody named: around one that was, or within it."""
        return tuple(one for one in self.steerings if are_one(optimizer, one.optimizer))

    def of_known(self, optimizer: Any) -> tuple[Steering, ...]:
        """As `of`, without asking where the optimizer is one that somebody named."""
        steerings = self.known.get(id(optimizer))
        return self.of(optimizer) if steerings is None else steerings

    def _know(self) -> None:
        """So that a step of one of many optimizers asks after no other."""
        self.known = {id(one.optimizer): self.of(one.optimizer) for one in self.steerings}
        self.only = self.steerings[0].optimizer if len(self.steerings) == 1 else None
        if hooks is not None:
            alone = [one for each in self.known.values() if len(each) == 1 for one in each]
            hooks.steer(tuple(alone), _before_step, _after_step, self.failed)

    def failed(self, error: Exception) -> None:
        """Counts: a hook of ours never reaches the training."""
        let_through(error)
        self.failures += 1
        self.last_failure = described(error)


def _is_in_a_step() -> bool:
    """Whether torch's wrapper around an optimizer's step is on this thread's stack."""
    file = getattr(sys.modules.get("torch.optim.optimizer"), "__file__", None)
    frame: FrameType | None = frame_at(1)
    while file is not None and frame is not None:
        if frame.f_code.co_filename == file:
            return True
        frame = frame.f_back
    return False


HOOKS = StepHooks()  # torch's own hooks are a process-wide table, so this is too


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Guard] | None:
    guard: Guard | None = None
    try:
        frame = frame_at(1)
        for steering in HOOKS.steerings if optimizer is HOOKS.only else HOOKS.of_known(optimizer):
            if steering.frame:
                if steering.stepping():  # a wrapper (Lookahead) or a subclass steps inside its own step: scaled once
                    continue
                steering.settle()
            steering.frame = hash(frame)
            if steering.code is None:
                steering.code = frame.f_code
            if steering.steers:
                guard = steering.place(optimizer, kwargs)
    except BaseException as error:
        _put_back(optimizer)
        if not isinstance(error, Exception):
            raise
        HOOKS.failed(error)  # fail open: the job goes on
        return None
    return None if guard is None else (args, guard)


def _after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    frame = hash(frame_at(1))
    for steering in HOOKS.steerings if optimizer is HOOKS.only else HOOKS.known.get(id(optimizer), HOOKS.steerings):
        try:
            if steering.frame == frame:  # else it is a step inside a step
                if steering.placed.any:
                    steering.overwritten += steering.placed.put_back()
                    if type(kwargs) is Guard and not kwargs:
                        steering.guard = kwargs
                steering.frame = 0
                calm = steering.calm
                if calm is not None and calm.fresh and calm.page[0] == calm.expected:
                    calm.fresh = False
                    calm.steps += 1
                elif steering.boundary is not None:
                    steering.boundary()
        except BaseException as error:
            _put_back(optimizer)
            if not isinstance(error, Exception):
                raise
            HOOKS.failed(error)  # fail open: the job goes on


def _put_back(optimizer: Any) -> None:
    """The user's rates, before the script goes on behind the `except` in which an interrupt of ours ends."""
    for steering in HOOKS.known.get(id(optimizer), HOOKS.steerings):
        if steering.placed.any:
            steering.placed.put_back()


# A compiled optimizer would trace into them otherwise.
_before_step._torchdynamo_disable = True  # type: ignore[attr-defined]  # a mark that dynamo looks for on the function
_after_step._torchdynamo_disable = True  # type: ignore[attr-defined]  # likewise
