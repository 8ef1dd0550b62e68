"""How an attempt leaves its process: a daemon is waited for a little, and what was, and what was lost, is said."""

from __future__ import annotations

from collections.abc import Iterable

from ..core.clock import Clock
from .line import Line

_POLL_S = 0.005


def drain(line: Line, clock: Clock) -> bool:
    """Waits at most as long as the line allows for a daemon to take all of it; whether it has."""
    until, served = clock.monotonic() + line.bell.finish_wait_s, line.bell.connected
    while served and line.spool.unread and clock.monotonic() < until:
        line.bell.ring_if_armed()
        clock.sleep(_POLL_S)
    return served and not line.spool.unread


def let_go(line: Line, drained: bool) -> None:
    """Of everything that the line holds; the spool stays for the next daemon unless it is `drained`."""
    line.keep_best.forget()
    line.bell.close()
    line.spool.close(unlink=drained)
    if line.journal is not None:
        line.journal.close()


def summary(run: str, state: str, stop: str | None, line: Line, drained: bool, lost: Iterable[tuple[int, str]]) -> str:
    """A line of how `run` ended, with how many of each kind were `lost`, and one for each decision that changed it."""
    said = [f"run {run} {state}"]
    if state == "pruned":
        said[0] += f": {stop}"
    if not drained:
        said[0] += f"; what it logged waits in {line.spool.path} for the next daemon"
    said[0] += "".join(f"; {count} {what}" for count, what in ((line.spool.dropped, "points found no room"), *lost) if count)
    for one in line.control.changes:
        moved = "" if one.after is None else f" {one.after}" if one.before is None else f" {one.before} -> {one.after}"
        said.append(f"  step {one.step}: {one.action}{moved}: {one.reason}" + (f" ({one.why})" if one.why else ""))
    return "\n".join(said)
