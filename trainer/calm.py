"""What a step boundary looks at to see that nothing is to be done there: no call, for a training pays for it at every step."""

from __future__ import annotations

from collections.abc import Sequence


class Calm:
    """`page[0]` is the control page's revision and `expected` what it is while nothing new stands there and nothing waits;
    `fresh` says that log() has looked at the clock since the last boundary; `steps` counts the boundaries, from the job's first
    step on."""

    __slots__ = ("expected", "fresh", "page", "steps")

    def __init__(self, page: Sequence[int] = (0,)) -> None:
        self.page = page
        self.expected = 0
        self.fresh = False
        self.steps = 0
