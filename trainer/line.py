"""What an attachment holds on to: its attempt's way out of the process, and its place among the ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..bus.doorbell import Doorbell
from ..bus.spool import Spool
from .control import Control
from .journal import Journal
from .keep_best import KeepBest
from .lr import Steering

if TYPE_CHECKING:
    from .direct import Direct


@dataclass(slots=True)
class Line:
    """The attempt's way out of the process."""

    spool: Spool
    journal: Journal | None
    bell: Doorbell | Direct
    control: Control
    keep_best: KeepBest
    steerings: list[Steering] = field(default_factory=list)


class Ranks(Protocol):
    """This rank among the others of its job. `boundary` comes after each step, `tend` about once a second."""

    def boundary(self, step: int) -> None: ...
    def tend(self, step: int) -> None: ...
    def close(self) -> None: ...
    def forget(self) -> None: ...
