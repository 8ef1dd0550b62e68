"""Holding a partition of the store: only its holder changes its files, and whoever held it before no longer can.

Daemons of a fleet share one folder. The bus says whose a partition is; but a daemon that was paused learns late that it is
not its own any more, and may wake up between writing a file and putting it in its place. So files are made in a folder of
the holder's own, `.writing/<partition>.<id>/`, which exists once and is never made again. Who takes a partition over makes
one for itself, removes every other one of that partition, and only then looks at what is visible. Each change of a visible
file is a rename from or into the holder's folder: after the removal no rename of an earlier holder can succeed.

Two that take over at once remove each other at worst, never neither: of two that both have ended their removal, the one
that listed the folders later saw the other's. So whoever still has its folder has seen all that was published before.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import pyarrow as pa

from ..core.clock import Clock
from ..core.errors import Unavailable
from ..core.ulid import ulid
from .file_names import DAMAGED, TABLES, file_name, parse_damaged, parse_name, visible_files

PUBLISH_EVERY_S = 1.0
WRITING = ".writing"
MAX_SWEEPS = 100
"""Times that a folder is emptied into which its paused holder is just writing; each time takes one file."""
_LEFT_BY_0_1 = ".tmp-"


class Fenced(Unavailable):
    """Another store holds the partition `number` now: what this one has in memory of it is void, its lane begins anew."""

    def __init__(self, number: int, path: str) -> None:
        super().__init__(
            f"partition {number} was taken over by another daemon before {path} could be published",
            "nothing to do: it goes on with what it is assigned next",
        )
        self.number = number


class Tenure(Protocol):
    """One partition's files while one store holds them. Paths are local; Fenced where the hold is over."""

    number: int
    leftovers: int

    @property
    def held(self) -> bool:
        """Whether nobody has taken over, as far as can be known without publishing."""

    def files(self, table: str) -> list[tuple[int, str]]:
        """(start, path) of the visible files of a table, by start."""

    def aside(self, table: str) -> dict[int, list[str]]:
        """The paths of the files that were set aside, by start."""

    def path(self, table: str, start: int) -> str:
        """Where a file belongs."""

    def footer(self, path: str) -> str | pa.NativeFile:
        """Where the end of a visible file can be read, which may be all that there is of it."""

    def whole(self, path: str) -> str:
        """A visible file as a path to all of it."""

    def size(self, path: str) -> int:
        """Bytes of a visible file."""

    def replacing(self, path: str) -> AbstractContextManager[str]:
        """A path to write to: on success that is durable and visible under `path`, on an error it is gone."""

    def set_aside(self, path: str) -> str:
        """Gives a damaged file a hidden name, so that it no longer breaks its readers; the new path."""

    def remove(self, path: str) -> None:
        """Unlinks a file."""

    def release(self) -> None:
        """Lets the partition go; visible files stay. Idempotent."""


class Place(Protocol):
    """Where a store keeps its files."""

    publish_s: float
    """How often what was taken becomes visible unless a person wants it otherwise."""
    shared: bool
    """Whether other stores keep partitions there too."""
    metrics: str | None
    """The folder that readers of this host list, if it is one that no other host sees."""

    def numbers(self) -> set[int]:
        """The partitions that have files."""

    def take(self, number: int) -> Tenure:
        """Takes a partition over from whoever held it. Unavailable where the place is away."""


@contextmanager
def on_disk(path: str) -> Iterator[None]:
    """An OSError inside becomes Unavailable, which the lane retries: a full disk is waited for, not fatal."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = (
            "make room there; the rows wait and nothing is lost" if full else "check the folder's owner and its disk; the rows wait"
        )
        raise Unavailable(f"cannot write {path}: {error.strerror or error}", hint) from error


def sync_folder(folder: str) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Directory:
    """A store in a folder, of one daemon, or `shared` by several (NFSv4 where they are on several hosts)."""

    publish_s = PUBLISH_EVERY_S

    def __init__(self, folder: str, clock: Clock, shared: bool = False) -> None:
        self._folder, self._clock, self.shared = folder, clock, shared
        self.metrics = None if shared else os.path.join(folder, "metrics")
        with on_disk(folder):
            for name in (*TABLES, WRITING):
                os.makedirs(os.path.join(folder, name), exist_ok=True)

    def numbers(self) -> set[int]:
        """The partitions that have files."""
        found: set[int] = set()
        for table in TABLES:
            folder = os.path.join(self._folder, table)
            with on_disk(folder):
                names = os.listdir(folder)
            found |= {key[0] for name in names if (key := parse_name(name) or parse_damaged(name))}
        return found

    def take(self, number: int) -> FolderTenure:
        """Takes a partition over; whoever held it cannot change its files when this returns."""
        return FolderTenure(self._folder, number, ulid(self._clock.now()))


class FolderTenure:
    """A hold on one partition of a folder, from here until another one begins."""

    def __init__(self, folder: str, number: int, identity: str) -> None:
        self.number = number
        self.leftovers = 0
        self._folder = folder
        self._mine = os.path.join(folder, WRITING, f"{number}.{identity}")
        with on_disk(self._mine):
            os.mkdir(self._mine)
            try:
                self._sweep()
                self._see_afresh()
            except BaseException:
                self.release()
                raise

    def _sweep(self) -> None:
        """Removes the folders of all others. Who writes into one just now makes one more file at most before its next
        rename, which fails."""
        writing = os.path.dirname(self._mine)
        for _ in range(MAX_SWEEPS):
            others = [name for name in os.listdir(writing) if name.split(".")[0] == str(self.number)]
            others = [os.path.join(writing, name) for name in others if name != os.path.basename(self._mine)]
            if not others:
                return
            for path in others:
                self.leftovers += _remove_folder(path)
        raise Unavailable(
            f"partition {self.number} cannot be taken over: somebody writes into {others[0]}", "end the process that does"
        )

    def _see_afresh(self) -> None:
        """Removes what a kill left of version 0.1. That its name is written first changes the folders: a client of NFS then
        lists what there is, not what it remembers."""
        left = f"{_LEFT_BY_0_1}{self.number}-"
        for table in TABLES:
            folder = os.path.join(self._folder, table)
            mark = os.path.join(folder, left + os.path.basename(self._mine))
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT, 0o600))
            for path in (os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(left)):
                with suppress(FileNotFoundError):
                    os.unlink(path)
                    self.leftovers += path != mark

    @property
    def held(self) -> bool:
        """Whether nobody has taken over until now."""
        return os.path.isdir(self._mine)

    def files(self, table: str) -> list[tuple[int, str]]:
        """(start, path) of the visible files of a table, by start."""
        folder = os.path.join(self._folder, table)
        with on_disk(folder):
            return [(start, path) for number, start, path in visible_files(folder) if number == self.number]

    def aside(self, table: str) -> dict[int, list[str]]:
        """The paths of the files that were set aside, by start."""
        folder, found = os.path.join(self._folder, table), dict[int, list[str]]()
        with on_disk(folder):
            for name in os.listdir(folder):
                key = parse_damaged(name)
                if key and key[0] == self.number:
                    found.setdefault(key[1], []).append(os.path.join(folder, name))
        return found

    def path(self, table: str, start: int) -> str:
        """Where a file belongs."""
        return os.path.join(self._folder, table, file_name(self.number, start))

    def footer(self, path: str) -> str:
        """The file itself."""
        return path

    def whole(self, path: str) -> str:
        """The file itself."""
        return path

    def size(self, path: str) -> int:
        """Bytes of a visible file."""
        return os.path.getsize(path)

    @contextmanager
    def replacing(self, path: str) -> Iterator[str]:
        """A path to write to: on success that is durable and visible under `path`, on an error it is gone."""
        hidden = self._hidden(path)
        try:
            with self._fenced(path):
                yield hidden
                os.replace(hidden, path)
                sync_folder(os.path.dirname(path))
        finally:
            with suppress(OSError):
                os.unlink(hidden)

    def set_aside(self, path: str) -> str:
        """Gives a damaged file a hidden name; the new path."""
        folder, name = os.path.split(path)
        taken = set(os.listdir(folder))
        names = (f"{DAMAGED}{name}" + (f".{count}" if count else "") for count in range(len(taken) + 1))
        target = os.path.join(folder, next(one for one in names if one not in taken))
        with self._fenced(path):
            try:
                os.link(path, target)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without links
                shutil.copyfile(path, target)
            sync_folder(folder)  # before the file goes: its start must be known, else nobody knows of the hole
        self.remove(path)
        return target

    def remove(self, path: str) -> None:
        """Unlinks a file, by way of this holder's folder."""
        hidden = self._hidden(path)
        with self._fenced(path):
            os.replace(path, hidden)
            sync_folder(os.path.dirname(path))
            os.unlink(hidden)

    def release(self) -> None:
        """Lets the partition go."""
        with suppress(OSError):
            _remove_folder(self._mine)

    def _hidden(self, path: str) -> str:
        folder, name = os.path.split(path)
        return os.path.join(self._mine, f"{os.path.basename(folder)}-{name}")

    @contextmanager
    def _fenced(self, path: str) -> Iterator[None]:
        try:
            with on_disk(path):
                yield
        except Unavailable as error:
            if not self.held:
                raise Fenced(self.number, path) from error
            raise


def _remove_folder(path: str) -> int:
    """Empties and removes a folder into which somebody may still write; how many files were in it."""
    removed = 0
    with suppress(FileNotFoundError):
        for name in os.listdir(path):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(path, name))
                removed += 1
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    return removed
