"""Where a training of several optimizers has come round: after the step of the last of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..core.errors import Forbidden
from .lr import Steering, are_one

MOST_STEPS = 256
"""Steps without a round: an optimizer that takes no part (any more) is not waited for. Critics of a GAN step up to about 100
times for one step of the generator."""


class Cycle:
    """Hears the steps of `count` optimizers and calls `boundary` once all that take part have stepped, in any order."""

    def __init__(self, count: int, boundary: Callable[[], None]) -> None:
        self._boundary = boundary
        self._taking_part = set(range(count))
        self._stepped: set[int] = set()
        self._steps = 0

    def stepped(self, number: int) -> None:
        """Optimizer `number` has made a step."""
        self._stepped.add(number)
        self._taking_part.add(number)
        self._steps += 1
        if self._steps >= MOST_STEPS:
            self._taking_part = set(self._stepped)
        if len(self._taking_part) == len(self._stepped):  # whoever steps takes part: the one is within the other
            self._stepped.clear()
            self._steps = 0
            self._boundary()


def steerings_of(given: Any, boundary: Callable[[], None]) -> list[Steering]:
    """A steering for each optimizer in what was given: one, a list, or a dict of names. Without a name it is called by its
    number. `boundary` is called when all of them have stepped. Forbidden for what is no optimizer."""
    if given is None:
        return []
    named = given if isinstance(given, dict) else dict(enumerate(given if isinstance(given, list | tuple) else [given]))
    for one in named.values():
        if not hasattr(one, "param_groups"):
            raise Forbidden(f"optimizer= got a {type(one).__name__}", "pass a torch optimizer, a list or a dict of them")
    named = _once(named)
    if len(named) == 1:
        return [Steering(one, boundary, str(name)) for name, one in named.items()]
    cycle = Cycle(len(named), boundary)
    return [Steering(one, partial(cycle.stepped, number), str(name)) for number, (name, one) in enumerate(named.items())]


def _once(named: dict[Any, Any]) -> dict[Any, Any]:
    """Without what has the same groups as one before it (a wrapper and the optimizer in it): they are scaled once, and a
    step of either is a step of both."""
    kept: dict[Any, Any] = {}
    for name, one in named.items():
        one = _bare(one)
        if not any(are_one(one, known) for known in kept.values()):
            kept[name] = one
    return kept


def _bare(optimizer: Any) -> Any:
    """The optimizer that steps, in the wrapper that a framework puts around it (Accelerate, Lightning): such a wrapper has no
    hooks of its own."""
    inner = getattr(optimizer, "optimizer", None)
    while hasattr(inner, "param_groups") and inner is not optimizer and are_one(inner, optimizer):
        optimizer, inner = inner, getattr(inner, "optimizer", None)
    return optimizer
