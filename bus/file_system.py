"""What kind of file system a folder lies on: mmap, locks and SQLite's write-ahead log need one of this machine's own."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..core.errors import ConfigError

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "davfs", "virtiofs", "autofs")
_CLUSTER = ("lustre", "gpfs", "glusterfs", "beegfs", "orangefs", "pvfs2", "ocfs2", "gfs2")
NOT_LOCAL = frozenset(_NETWORK + _CLUSTER)
LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs"})
"""FUSE that is a local disk all the same: NTFS, and the root of a rootless container."""


def file_system_type(path: str, mounts: str = "/proc/self/mountinfo") -> str:
    """The type of the file system that holds `path` (or will: the nearest folder that exists), as mount(8) names it;
    "unknown" where the kernel does not say."""
    wanted = os.path.realpath(path)
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as lines:
            table = [line.split() for line in lines]
    except OSError:
        return "unknown"
    best, found = -1, "unknown"
    for fields in table:  # a later mount hides an earlier one at the same place
        if len(fields) < 10 or "-" not in fields[6:]:
            continue
        point = _unescaped(fields[4]).rstrip("/")
        if len(point) >= best and (wanted + "/").startswith(point + "/"):
            best, found = len(point), fields[fields.index("-", 6) + 1]
    return found


def _unescaped(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def is_local(kind: str) -> bool:
    """Whether a type as `file_system_type` gives it is safe to share memory and locks on."""
    return kind in LOCAL_FUSE or not (kind in NOT_LOCAL or kind.startswith("fuse"))


def require_local(path: str, what: str, type_of: Callable[[str], str] = file_system_type) -> None:
    """ConfigError where `path` lies on a network or user-space file system; `what` says whose data that would be."""
    kind = type_of(path)
    if not is_local(kind):
        raise ConfigError(
            f"{what} cannot lie on {kind} ({path}): locks and shared memory are not to be trusted there",
            "choose a folder on a disk of this machine: --data-dir or SMART_TUNER_DATA_DIR",
        )
