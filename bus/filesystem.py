"""What statfs(2) says of a path or a descriptor: some file systems cannot carry a mapped file."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

REMOTE = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
    0x01021997: "9p",
    0x5346414F: "AFS",
    0x00C36400: "Ceph",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
}
"""statfs(2) types on which a page written through a mapping may not be what another process reads."""

COPY_ON_WRITE = {0x9123683E: "btrfs", 0x2FC12FC1: "ZFS", 0xCA451A4E: "bcachefs", 0x3434: "nilfs"}
MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}

_GET_FLAGS, _SET_FLAGS, _NOCOW = 0x80086601, 0x40086602, 0x00800000


def kind(path: str | int) -> int:
    """The statfs(2) type of the file system that holds `path` (or an open descriptor); OSError if it is not there."""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(256)
    done = libc.fstatfs(path, answer) if isinstance(path, int) else libc.statfs(os.fsencode(path), answer)
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), None if isinstance(path, int) else path)
    return int(struct.unpack_from("@l", answer)[0]) & 0xFFFFFFFF


def remote(path: str | int) -> str | None:
    """The name of the network or user-space file system that holds `path`, None for a local one."""
    return REMOTE.get(kind(path))


def in_memory(path: str | int) -> bool:
    """Whether what lies there is gone after a reboot."""
    return kind(path) in MEMORY


def rewrites_in_place(fd: int) -> bool:
    """Whether preallocated blocks of this still empty file are the ones written later. On btrfs the file is told so
    (NOCOW); where that cannot be, a full disk is a SIGBUS in whoever maps the file."""
    found = kind(fd)
    if found not in COPY_ON_WRITE:
        return True
    flags = bytearray(8)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, flags)
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("@l", struct.unpack("@l", flags)[0] | _NOCOW))
        fcntl.ioctl(fd, _GET_FLAGS, flags)
    except OSError:
        return False
    return bool(struct.unpack("@l", flags)[0] & _NOCOW)
