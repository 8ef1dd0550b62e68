"""What log(), the hooks around an optimizer's step and a step boundary look at to see that nothing is out of the ordinary: no
call, for a training pays for it at every step. Compiled (calm.h) where it could be, and then it does what is to be done then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any

from ..bus.ring import FORM, PlainRing, Ring
from .raised import of_handler


class PlainCalm:
    """`page[0]` is the control page's revision and `expected` what it is while nothing new stands there and nothing waits;
    `looked` is when that was last done which is due once a second, and `fresh` says that log() has looked at the clock since the
    last boundary; `steps` counts the boundaries, from the job's first step on."""

    __slots__ = ("expected", "fresh", "looked", "page", "spool", "steps")

    def __init__(self, page: Sequence[int] = (0,), spool: Ring | None = None) -> None:
        self.page = page
        self.spool = spool
        self.expected = 0
        self.looked = 0.0
        self.fresh = False
        self.steps = 0


class PlainPlaces:
    """`groups` are (group, its own rate, what is used); `any` says whether something may be placed."""

    __slots__ = ("any", "groups")

    any: bool
    groups: list[tuple[dict[str, Any], Any, float]]


class PlainStepping:
    """The fields of lr.Steering that the hooks look at."""

    __slots__ = (
        "_plan", "boundary", "calm", "code", "frame", "guard", "min_lr", "optimizer", "overwritten", "placed", "steers", "told",
    )  # fmt: skip

    optimizer: Any
    boundary: Callable[[], None] | None
    calm: Calm | None
    code: CodeType | None
    frame: int
    guard: Any
    min_lr: float
    overwritten: int
    placed: Any
    steers: bool
    told: Any
    _plan: list[tuple[float, float | None] | None]


hooks: Any = None
"""Where they are compiled: `before_step` and `after_step` for torch; `steer` tells them whom they steer and who does the rest."""
if TYPE_CHECKING:
    from ._calm import Calm as Calm
    from ._calm import Places as Places
    from ._calm import Stepping as Stepping
else:
    Calm, Places, Stepping = PlainCalm, PlainPlaces, PlainStepping
    try:
        from . import _calm

        if _calm.FORM == FORM and Ring is not PlainRing:  # both, or none
            Calm, Places, Stepping, hooks = _calm.Calm, _calm.Places, _calm.Stepping, _calm
            _calm.ask(of_handler)
    except ImportError:
        pass


def compiled() -> bool:
    """Whether all this is."""
    return hooks is not None
