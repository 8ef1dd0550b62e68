"""What one optimizer's groups use, and how it is put in their place for the time of a step.

A group whose `lr` is a number gets another object, which is taken out again; a tensor is changed in place, since a captured
or compiled step reads that very tensor. Adafactor as fairseq and transformers have it computes a rate for each parameter in
`_get_lr(group, state)`: where it sets its own (`lr` is None), that function's answer is changed.
"""

from __future__ import annotations

from typing import Any

from ..core.intent import Rate
from .calm import Places

NUMBERS = (float, int)


class Placed(Places):
    """What was put in place of the user's rates for one step, and what was there. Empty between steps; `any` says whether
    it may not be."""

    __slots__ = ("_functions", "_tensors")

    def __init__(self) -> None:
        self.any = False
        self.groups = []
        self._tensors: list[tuple[Any, Any]] = []
        self._functions: list[tuple[Any, Any]] = []

    def number(self, group: dict[str, Any], wanted: float) -> None:
        """`wanted` for the group's own number."""
        self.groups.append((group, group["lr"], wanted))
        group["lr"] = wanted

    def tensor(self, lr: Any, rate: Rate, floor: float) -> None:
        """Changes a group's tensor in place, without reading it: no sync."""
        if any(lr is placed for placed, _ in self._tensors):  # groups may share one tensor: once is enough
            return
        own = lr.detach().clone()
        self._tensors.append((lr, own))
        target = lr.detach()
        if rate.hold is not None:
            target.fill_(rate.hold)
        else:
            target.copy_((own * rate.multiplier).maximum(own.clamp(max=floor)))

    def function(self, optimizer: Any, rates: dict[int, Rate], floor: float) -> None:
        """Changes what `optimizer._get_lr` answers for the groups in `rates` (by id)."""
        original = optimizer._get_lr

        def steered(group: dict[str, Any], state: Any) -> Any:
            rate = rates.get(id(group))
            if rate is None:
                return original(group, state)
            if rate.hold is not None:  # as if the user had written it down
                return original({**group, "lr": rate.hold, "relative_step": False, "warmup_init": False}, state)
            own = original(group, state)
            return max(own * rate.multiplier, min(own, floor))

        self._functions.append((optimizer, optimizer.__dict__.get("_get_lr")))
        optimizer._get_lr = steered

    def own(self, group: dict[str, Any]) -> Any:
        """The user's object where another one is in its place now, else what is there."""
        lr = group.get("lr")
        for placed, own, wanted in self.groups:
            if placed is group and lr is wanted:
                return own
        return next((own for tensor, own in self._tensors if tensor is lr), lr)

    def put_back(self) -> int:
        """Puts everything back. Returns how many groups got a rate from their owner meanwhile, which stands. Where an interrupt
        cuts it off, all is still noted, and it can be done again."""
        overwritten = 0
        for group, own, wanted in self.groups:
            lr = group.get("lr")
            if lr is wanted:
                group["lr"] = own
            elif lr is not own:
                overwritten += 1
        if self._tensors or self._functions:
            self._put_back_others()
        self.groups.clear()
        self.any = False
        return overwritten

    def _put_back_others(self) -> None:
        for tensor, own in self._tensors:
            tensor.detach().copy_(own)
        for optimizer, before in reversed(self._functions):
            if before is None:
                optimizer.__dict__.pop("_get_lr", None)
            else:
                optimizer._get_lr = before
        self._functions.clear()
        self._tensors.clear()


def wanted(lr: float, rate: Rate, floor: float) -> float:
    """What a group uses whose own rate is `lr`."""
    return rate.hold if rate.hold is not None else max(lr * rate.multiplier, min(lr, floor))


def is_rate(lr: Any) -> bool:
    """Whether it is a number or a tensor. Adafactor and others have groups whose lr is None."""
    if isinstance(lr, bool) or lr is None:
        return False
    return isinstance(lr, NUMBERS) or hasattr(lr, "item")


def sets_its_own(optimizer: Any) -> bool:
    """Whether the optimizer computes its rates in a function that can be steered."""
    return callable(getattr(optimizer, "_get_lr", None))
