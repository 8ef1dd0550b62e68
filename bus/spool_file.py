"""A spool as a file: where it lies, how it is made, and when its leftovers go."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator

from ..core.clock import Clock, SystemClock
from ..core.errors import CorruptData, Unavailable, UsageError
from . import filesystem
from .process import boot_id, pid_namespace, pid_started
from .spool_layout import (
    FORM,
    GIVEN_UP,
    HEADER_BYTES,
    HEADER_WORDS,
    IDENTITY_OFFSET,
    LEAST_RING_BYTES,
    MAGIC,
    RING_OFFSET,
    WORD_DRAINED,
    WORD_FORM,
    WORD_HEAD,
    WORD_MAGIC,
    WORD_READ,
    WORD_RING,
    Identity,
    decode_header,
    encode_identity,
    pread_word,
)

SUFFIX = ".spool"
_UNFINISHED = ".new"
_ATTEMPT = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def memory_folder() -> str:
    """Where a spool lies when the user's own folder cannot carry it: gone after a reboot, safe from a kill."""
    return f"/dev/shm/smart-tuner-{os.geteuid()}"


def create_file(folder: str, wanted: Identity, ring_bytes: int, clock: Clock | None = None) -> tuple[int, str, Identity, bool]:
    """Descriptor, path, full identity, and whether it survives a reboot. The file appears under its name only when it is
    whole. UsageError for a name that cannot be one, Unavailable where no file can be had."""
    if not _ATTEMPT.fullmatch(wanted.attempt):
        raise UsageError(f"{wanted.attempt!r} is no attempt id", "leave it to attach, which mints a ULID")
    if ring_bytes < LEAST_RING_BYTES or ring_bytes % 8:
        raise UsageError(f"a ring of {ring_bytes} bytes", f"at least {LEAST_RING_BYTES}, a multiple of 8")
    identity = Identity(
        run=wanted.run,
        attempt=wanted.attempt,
        address=wanted.address,
        group=wanted.group,
        pid=os.getpid(),
        pid_started=pid_started(os.getpid()),
        pid_namespace=pid_namespace(),
        boot_id=boot_id(),
        created=(clock or SystemClock()).now(),
    )
    try:
        header = _header(identity, ring_bytes)
    except ValueError as error:
        raise UsageError(str(error), "shorten the run's name or the data directory's path") from error
    problem = ""
    for place in (folder, memory_folder()):
        try:
            made = _create_in(place, wanted.attempt, header, RING_OFFSET + ring_bytes)
        except OSError as error:
            raise Unavailable(
                f"no spool can be made in {place}: {error.strerror}", "free some space there, or set XDG_STATE_HOME elsewhere"
            ) from error
        if isinstance(made, str):
            problem = made
            continue
        return *made, identity, not filesystem.in_memory(made[0])
    raise Unavailable(f"no spool can be made: {problem}", "set XDG_STATE_HOME to a local file system")


def _create_in(folder: str, attempt: str, header: bytes, size: int) -> tuple[int, str] | str:
    """Descriptor and path, or why this folder cannot carry a mapped file."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    told = os.lstat(folder)
    if folder == memory_folder() and (told.st_uid != os.geteuid() or not stat.S_ISDIR(told.st_mode)):
        return f"{folder} belongs to someone else"
    network = filesystem.remote(folder)
    if network is not None:
        return f"{folder} lies on {network}"
    path = os.path.join(folder, attempt + SUFFIX)
    hidden = path + _UNFINISHED
    fd = os.open(hidden, _FLAGS, 0o600)
    try:
        if not filesystem.rewrites_in_place(fd):
            os.close(fd)
            os.unlink(hidden)
            return f"{folder} is copy-on-write"
        os.posix_fallocate(fd, 0, size)
        os.pwrite(fd, header, 0)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, f"{path} is there already")
        os.rename(hidden, path)
    except BaseException:
        os.close(fd)
        os.unlink(hidden)
        raise
    return fd, path


def _header(identity: Identity, ring_bytes: int) -> bytes:
    words = [0] * HEADER_WORDS
    words[WORD_MAGIC], words[WORD_FORM], words[WORD_RING] = MAGIC, FORM, ring_bytes
    start = struct.pack(f"@{HEADER_WORDS}Q", *words).ljust(IDENTITY_OFFSET, b"\0")
    return (start + encode_identity(identity)).ljust(HEADER_BYTES, b"\0")


def is_running(identity: Identity) -> bool | None:
    """Whether the process that made the spool lives; None where that cannot be seen from here (another pid namespace)."""
    if identity.boot_id != boot_id():
        return False
    if identity.pid_namespace != pid_namespace():
        return None
    return pid_started(identity.pid) == identity.pid_started


def spool_paths(folder: str) -> Iterator[tuple[str, str]]:
    """Attempt and path of each spool in `folder`, the oldest first; nothing if there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if name.endswith(SUFFIX):
            yield name[: -len(SUFFIX)], os.path.join(folder, name)


def open_spool(path: str) -> tuple[int, Identity] | None:
    """As `opened_spool`; None where it raises."""
    try:
        return opened_spool(path)
    except (CorruptData, OSError):
        return None


def opened_spool(path: str) -> tuple[int, Identity]:
    """A descriptor, which the caller closes, and the identity of this user's spool at `path`; OSError or CorruptData with
    the reason if it is none."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        told = os.fstat(fd)
        if not stat.S_ISREG(told.st_mode) or told.st_uid != os.geteuid():
            raise CorruptData("not a file of this user", "delete it if Smart Tuner's folder holds it")
        identity, _ = decode_header(os.pread(fd, HEADER_BYTES, 0), told.st_size)
    except BaseException:
        os.close(fd)
        raise
    return fd, identity


def own(fd: int) -> bool:
    """Takes the reading of a spool that was opened by its path for this descriptor, until it is closed or its process dies:
    False while somebody else has it. A descriptor that its job hands over needs no such word: who hands it over does not read."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def disown(fd: int) -> None:
    """Gives the reading up for every copy of this descriptor, those in children of a fork included."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError:
        pass


def sweep(folder: str) -> int:
    """Removes this user's spools that a daemon has drained and whose process is dead; how many it removed."""
    removed = 0
    for place in (folder, memory_folder()):
        for _, path in spool_paths(place):
            found = open_spool(path)
            if found is None:
                continue
            fd, identity = found
            try:
                state, head, read = (pread_word(fd, word) for word in (WORD_DRAINED, WORD_HEAD, WORD_READ))
                if (state == GIVEN_UP or (state and head == read)) and is_running(identity) is False:
                    os.unlink(path)
                    removed += 1
            except (OSError, CorruptData):
                pass
            finally:
                os.close(fd)
    return removed
