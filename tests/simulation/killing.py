"""Real kills: a forked child counts the lines of the loop as it runs them and ends itself with SIGKILL at one of them."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple

Line = tuple[str, int]


class Nth(NamedTuple):
    """Before the n-th line that is run."""

    n: int


class At(NamedTuple):
    """Before the n-th time that a line is run."""

    line: Line
    n: int


Where = Nth | At | None


class Seen(NamedTuple):
    """What an undisturbed child ran: each line with its count, in the order in which they came first."""

    lines: dict[Line, int]

    @property
    def total(self) -> int:
        return sum(self.lines.values())


class Tracer:
    """Counts the lines of `files`; kills this process where it is told to."""

    def __init__(self, files: frozenset[str], where: Where) -> None:
        self._files, self._where = files, where
        self.lines: Counter[Line] = Counter()
        self._holding: dict[CodeType, bool] = {}
        self._left = where.n if where is not None else -1

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        if isinstance(self._where, At):
            return self._line_at if self._holds_it(frame.f_code, self._where.line) else None
        return self._line_nth if isinstance(self._where, Nth) else self._count

    def _holds_it(self, code: CodeType, line: Line) -> bool:
        """A function that the line is not in need not be looked at line by line."""
        known = self._holding.get(code)
        if known is None:
            known = code.co_filename == line[0] and any(number == line[1] for _, _, number in code.co_lines())
            self._holding[code] = known
        return known

    def _count(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.lines[frame.f_code.co_filename, frame.f_lineno] += 1
        return self._count

    def _line_nth(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line_nth

    def _line_at(self, frame: FrameType, event: str, argument: Any) -> Any:
        assert isinstance(self._where, At)
        if event == "line" and frame.f_lineno == self._where.line[1]:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line_at


class Ended(NamedTuple):
    """How a child ended: killed as it was told to, or with a result."""

    killed: bool
    result: Any = None
    lines: dict[Line, int] | None = None


def in_child(work: Callable[[], Any], files: frozenset[str], where: Where = None, count: bool = False) -> Ended:
    """Runs `work` in a fork of this process. RuntimeError with the child's traceback where it raised."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(work, files, where, count, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and not said:
        return Ended(killed=True)
    fine, result, lines = pickle.loads(said) if said else (False, f"the child ended with status {status}", None)
    if not fine:
        raise RuntimeError(f"killed at {where}: {result}")
    return Ended(False, result, lines)


def _be_child(work: Callable[[], Any], files: frozenset[str], where: Where, count: bool, writing: int) -> None:
    try:
        tracer = Tracer(files, where)
        if where is not None or count:
            sys.settrace(tracer)
        result = work()
        sys.settrace(None)
        said = pickle.dumps((True, result, dict(tracer.lines)))
    except BaseException:
        sys.settrace(None)
        said = pickle.dumps((False, traceback.format_exc(), None))
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(said)
    os._exit(0)
