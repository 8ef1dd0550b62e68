"""Calls of log() that are like the one before: compiled code takes them (calm.py), once it was told what they have to be like."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from .line import Line
from .lr import UNTOLD
from .rates import NUMBERS

WANTED, ORDERED = 2, 4
"""What such a call may ask for beyond it: the reader wants the bell; something new stands on the control page, at a boundary."""
TOLD = ("lr", "lr_effective")
"""What goes before the values where the one learning rate is another one than it was."""

ONE_NUMBER = (("torch", "Tensor"), ("numpy", "float64"), ("numpy", "float32"))
"""Modules, where they are loaded, and their types of which item() is a number."""


def expect(
    line: Line,
    given: Mapping[str, Any],
    keys: tuple[str, ...],
    step: int,
    boundary: bool,
) -> None:
    """The next call may be as this one, if that was a usual one: numbers, or tensors of one on the CPU, under the names in `given`,
    which are the `keys` that came with `step`, the highest so far, all of it written. `boundary`: a call is one."""
    names, written, steerings = tuple(given), line.spool.names, line.steerings
    if not names or type(given) is not dict or names != keys or any(one in given for one in line.keep_best.series):
        return
    tells = written != names
    if tells and not (written == (*TOLD, *names) and len(steerings) == 1 == len(steerings[0].optimizer.param_groups)):
        return
    others = tuple(kind for module, name in ONE_NUMBER if (kind := getattr(sys.modules.get(module), name, None)) is not None)
    plain = all(type(one) in NUMBERS or type(one) in others for one in given.values())
    if plain and all(one.told is not UNTOLD for one in steerings):
        line.control.calm.expect(tuple(steerings), step, tells, boundary, others)
