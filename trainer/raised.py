"""Exceptions: how one is told, and which of them must reach the training although they were raised in code of ours.

What a signal's handler of the job's raises is the job's, whatever its class. KeyboardInterrupt and SystemExit pass every `except
Exception` by themselves. Many jobs have a handler that raises an exception of their own (on SIGTERM before their machine is taken
away, on SIGALRM as a time limit), and it raises inside whatever runs just then: the longer something of ours takes (a checkpoint,
the wait at an end), the likelier there.
"""

from __future__ import annotations

from inspect import CO_VARARGS
from types import FrameType, TracebackType
from typing import Any

from ..core.errors import SmartTunerError


def exited(status: Any) -> str:
    """What sys.exit was given: a code, or a text, which the interpreter prints and makes code 1."""
    return f"exit code {status}" if isinstance(status, int) else f"exit code 1: {text_of(status)}"[:300]


def described(error: BaseException) -> str:
    """One line for an exception; ours speak for themselves."""
    text = text_of(error).strip().splitlines()
    if not text:
        return type(error).__name__
    return text[0][:300] if isinstance(error, SmartTunerError) else f"{type(error).__name__}: {text[0]}"[:300]


def text_of(one: object) -> str:
    """What `one` says of itself. That is the job's own code, and where it fails the exception must go its way all the same."""
    try:
        return str(one)
    except Exception:  # noqa: BLE001  # the job's own __str__: what it raises must not come in its exception's place
        return "<its str() failed>"


def let_through(error: BaseException) -> None:
    """Raises what a handler raised, if that is what `error` is or comes from. To be called first where `error` was caught."""
    found = of_handler(error)
    if found is not None:
        raise found


def of_handler(error: BaseException) -> BaseException | None:
    """The exception that a signal's handler raised, among `error` and those that it was raised from or while handling, as far
    as it interrupted what is called from where `error` was caught: one that the job caught before is none."""
    if error.__traceback__ is None:
        return None
    catcher, one, seen = error.__traceback__.tb_frame, error, {id(error)}
    while True:
        interrupted = _interrupted(one.__traceback__)
        if interrupted is not None and (one is error or _is_below(interrupted, catcher)):
            return one
        before = one.__context__ if one.__cause__ is None else one.__cause__
        if before is None or id(before) in seen:
            return None
        one = before
        seen.add(id(one))


def _interrupted(trace: TracebackType | None) -> FrameType | None:
    """The frame in which a handler was called: it is the handler's caller and its second argument, behind the signal's number."""
    while trace is not None and trace.tb_next is not None:
        frame, called = trace.tb_frame, trace.tb_next.tb_frame
        given = _arguments(called)
        if any(one is frame for one in given) and any(isinstance(one, int) for one in given):
            return frame
        trace = trace.tb_next
    return None


def _arguments(frame: FrameType) -> list[object]:
    code, values = frame.f_code, frame.f_locals
    count = code.co_argcount + code.co_kwonlyargcount
    found = [values.get(name) for name in code.co_varnames[:count]]
    if code.co_flags & CO_VARARGS:
        rest = values.get(code.co_varnames[count])
        found += rest if isinstance(rest, tuple) else ()
    return found


def _is_below(frame: FrameType | None, caller: FrameType) -> bool:
    while frame is not None and frame is not caller:
        frame = frame.f_back
    return frame is not None
