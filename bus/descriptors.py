"""Descriptors of ours in a process that is the job's. A job may close all that there are, as one that becomes a daemon does, and
then its own files and sockets get their numbers: what is done to a number is done to what bears it now."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def mark_of(fd: int) -> tuple[int, int]:
    """What tells the open file `fd` from others; OSError where there is none."""
    told = os.fstat(fd)
    return told.st_dev, told.st_ino


def bears(fd: int, mark: tuple[int, int]) -> bool:
    """Whether `fd` still is what had that mark."""
    try:
        return mark_of(fd) == mark
    except OSError:
        return False


def never_close(mapped: mmap.mmap) -> None:
    """Keeps a mapping for as long as the process lives: it would close a descriptor of its own when it goes, by its number."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(mapped))


def in_children(one: T, forget: Callable[[T], object]) -> None:
    """Has `forget(one)` called in each child that is forked from here on, for as long as `one` lives."""
    reference = weakref.ref(one)

    def called() -> None:
        found = reference()
        if found is not None:
            forget(found)

    os.register_at_fork(after_in_child=called)
