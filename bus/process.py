"""Which process is meant: a pid alone is reused, a pid with its start time, boot and namespace is not."""

from __future__ import annotations

import os


def boot_id() -> str:
    """The id of this boot of the machine, empty where there is no /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def pid_started(pid: int) -> int:
    """When process `pid` started, in clock ticks since boot (proc(5), field 22); 0 if there is none or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if not fields or fields[0] in (b"Z", b"X") else int(fields[19])


def pid_namespace() -> str:
    """Names the namespace in which this process's pids count, empty where there is no /proc."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
