"""How often Python looks for cycles in a process that holds a hundred thousand objects for days and makes few cycles."""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 50)
"""New objects before a look at the young, and young and middle looks before one at the next older. With Python's own (700, 10, 10)
a daemon of 10,000 runs spends more than a third of its judging on walking over them."""


def look_seldom() -> None:
    """What is there now stays to the end, and is never walked over again; what comes is looked at seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
