from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any

from ..bus.ring import Ring

FORM: int

class Calm:
    expected: int
    fresh: bool
    looked: float
    page: Sequence[int]
    steps: int
    def __init__(self, page: Sequence[int] = ..., spool: Ring | None = None) -> None: ...
    def log(self, values: Mapping[str, Any], step: Any, /) -> int:
        """Takes a call that is as `expect` said: 0 where it is not, and nothing was done. Else 1, and 2 more where the reader
        wants the bell, 4 more where the call is a boundary and something new stands on the control page."""

    def expect(
        self,
        steerings: tuple[Stepping, ...],
        step: int,
        tells: bool,
        boundary: bool,
        others: tuple[type, ...],
        /,
    ) -> None:
        """From now on: names as the spool's last record has them, numbers, steps above `step`. The first learning rate of each of
        the `steerings` is as it was told or, with `tells` and one of one group, another one, with which the record begins.
        `boundary`: a call is one; `others` are types whose `item()` is a number, where it does not lie on an accelerator.
        ValueError for a spool whose records have another form."""

    def keep_time(self, now: Callable[[], float] | None, interval_s: float, /) -> None:
        """The clock, None for the system's, and how long a look around is good for: nothing is as usual `interval_s` behind
        `looked`."""

    def off(self) -> None:
        """Nothing is as usual until `expect`."""

    def taken(self) -> tuple[int, tuple[float, float] | None] | None:
        """The step of the last call that `log` took, where it has taken one since this was last asked, and, where such calls
        tell, the learning rate and what was used of it."""

class Places:
    any: bool
    groups: list[tuple[dict[str, Any], Any, float]]

class Stepping:
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

def before_step(optimizer: Any, args: Any, kwargs: Any, /) -> Any: ...
def after_step(optimizer: Any, args: Any, kwargs: Any, /) -> None: ...
def steer(
    steerings: tuple[Stepping, ...],
    before: Callable[..., Any],
    after: Callable[..., Any],
    failed: Callable[[Exception], None],
    /,
) -> None:
    """Whom the hooks steer, each of an optimizer of its own; who does before and after a step what is not as usual; who hears what
    goes wrong."""

def ask(of_handler: Callable[[BaseException], BaseException | None], /) -> None:
    """Who knows whether an error must reach the training (raised.of_handler)."""
