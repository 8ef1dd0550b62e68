"""Notices when a folder's listing is read: whoever listed it may be about to open any file in it."""

from __future__ import annotations

import ctypes
import os
import struct
import weakref

_ACCESS, _ONLY_FOLDERS, _OVERFLOW, _IS_FOLDER = 0x1, 0x01000000, 0x4000, 0x40000000  # inotify(7)
_EVENT = struct.Struct("iIII")


class FolderWatch:
    """An inotify watch of one folder. Readers on another host are not seen."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._fd = -1
        self._begin()

    def _begin(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(self._folder), _ACCESS | _ONLY_FOLDERS) < 0:
            os.close(fd)
            fd = -1
        self._fd = fd
        self._closing = weakref.finalize(self, os.close, fd) if fd >= 0 else None  # a user has few of them

    def listed(self) -> bool:
        """Whether somebody listed the folder since the last call; True where that cannot be known, as when the user has no
        watch left (fs.inotify.max_user_instances)."""
        if self._fd < 0:
            self._begin()
            return True
        found = False
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, at)
                found |= bool(mask & (_OVERFLOW | _IS_FOLDER))
                at += _EVENT.size + length

    def close(self) -> None:
        """Ends the watch."""
        if self._closing is not None:
            self._closing()
            self._fd, self._closing = -1, None
