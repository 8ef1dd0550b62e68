"""What a job gives after attach: an optimizer or a model that was not there yet, or that takes the place of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .abilities import sharded
from .checkpoints import Parts
from .cycle import steerings_of
from .effects import Effects
from .lr import Steering
from .step_hooks import HOOKS

MOST_GROUPS = 256
LONGEST_NAME = 64


class Late:
    """Puts it where attach would have put it: into each of `parts`, into the effects, behind torch's hooks. `boundary` is
    called after the steps of the optimizers."""

    def __init__(self, effects: Effects, parts: Sequence[Parts], boundary: Callable[[], None]) -> None:
        self._effects = effects
        self._parts = parts
        self._boundary = boundary

    def give(self, **given: Any) -> None:
        """optimizer, model, scheduler, scaler; None is what stays as it is. Forbidden, and nothing has changed, for what is no
        optimizer. What was decided about the learning rate is in force from the new optimizer's first step on."""
        steerings = steerings_of(given["optimizer"], self._boundary)
        for parts in self._parts:
            parts.take(**given)
        if steerings:
            for one in self._effects.steerings:
                HOOKS.remove(one)
            self._effects.steer(steerings)
            for one in steerings:
                HOOKS.add(one)
        if given["model"] is not None:
            self._effects.keep_best.take(None if sharded(given["model"]) else given["model"])


def group_names(steerings: Sequence[Steering]) -> dict[str, list[str]]:
    """How the parameter groups of each optimizer are called, in order; empty where none of them has a name of its own."""
    called = {one.name: [names[1] if len(names) > 1 else "" for names in one.names()] for one in steerings}
    names = [name for each in called.values() for name in each]
    return called if any(names) and len(names) <= MOST_GROUPS and max(map(len, names)) <= LONGEST_NAME else {}
