"""Which process is meant: a pid alone is reused, a pid with its start time, boot and namespace is not."""

from __future__ import annotations

import os
from typing import NamedTuple

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_CGROUPS = "/sys/fs/cgroup"


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


class Sample(NamedTuple):
    """What a process is at, by its main thread's letter of proc(5); the seconds of CPU that all its threads have used, the bytes
    it has written (None: not ours to see), and by what it is kept from running ("" where it runs)."""

    state: str
    cpu_s: float
    written: int | None
    stopped: str


def sample(pid: int) -> Sample | None:
    """A look at process `pid`, some 50 µs; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 13 or fields[0] in (b"Z", b"X"):
        return None
    state = fields[0].decode("ascii", "replace")
    stopped = {"T": "SIGSTOP", "t": "a debugger"}.get(state) or ("the cgroup freezer" if _is_frozen(pid) else "")
    return Sample(state, (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND, _written(pid), stopped)


def _written(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            return next((int(line[6:]) for line in file if line.startswith(b"wchar:")), None)
    except OSError:
        return None


def _is_frozen(pid: int) -> bool:
    """Whether a freezer of either version of cgroups holds the process, as far as its folder is seen from here."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return False
    for number, names, path in (line for line in lines if len(line) == 3):
        if number == "0" and "frozen 1" in _text(f"{_CGROUPS}{path}/cgroup.events").splitlines():
            return True
        if "freezer" in names.split(",") and _text(f"{_CGROUPS}/freezer{path}/freezer.state").strip() == "FROZEN":
            return True
    return False


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096)
    except OSError:
        return ""


def pid_of(pidfd: int) -> int:
    """The pid, as it counts here, of the process that a pidfd stands for; 0 where it cannot be seen from here, or is gone."""
    for line in _text(f"/proc/self/fdinfo/{pidfd}").splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            return max(0, int(value))
    return 0
