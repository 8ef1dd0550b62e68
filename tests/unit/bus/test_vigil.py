"""Watching silent attempts, over real processes: what is told, how often, and what is no silence."""

import itertools
import os
import signal
import subprocess
import sys

import pytest
from smarttuner.bus.process import pid_of, sample
from smarttuner.bus.vigil import Vigil

SLEEPER = "import sys; print(flush=True); sys.stdin.read()"
SPINNER = "print(flush=True)\nwhile True: pass"
WRITER = "import os, sys\nprint(flush=True)\nwhile sys.stdin.readline(): os.write(2, bytes(1 << 26)); print(flush=True)"


@pytest.fixture
def process():
    """Starts a process that is ready, and ends it."""
    started = []

    def start(script):
        with open(os.devnull, "wb") as null:
            one = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=null)
        started.append(one)
        one.stdout.readline()
        while script == SLEEPER and sample(one.pid).state != "S":
            pass
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


def watch(vigil, seconds, pid, start=0, mark=7):
    """What is told of an attempt that says nothing, looked at each second; the second before it spoke."""
    told = [(at, vigil.look(mark, float(at), lambda: pid)) for at in range(start, start + seconds + 1)]
    return [(at, one) for at, one in told if one is not None]


def test_notes_grow_rarer_and_say_how_long(process):
    sleeper = process(SLEEPER)
    told = watch(Vigil(), 3600, sleeper.pid)
    assert [at for at, _ in told[:6]] == [60, 75, 105, 135, 180, 225]
    assert max(after[0] - before[0] for before, after in itertools.pairwise(told)) == 300
    one = told[2][1]
    assert (one.quiet_s, one.pid, one.host, one.stopped, one.state) == (105.0, sleeper.pid, os.uname().nodename, "", "sleeping")
    assert one.cpu == 0.0


def test_a_process_met_awake_at_one_look_is_told_as_what_it_is_at_most_looks(process):
    sleeper, spinner = process(SLEEPER), process(SPINNER)
    while sample(spinner.pid).state != "R":
        pass
    vigil = Vigil()
    told = [vigil.look(7, float(at), lambda at=at: spinner.pid if at == 60 else sleeper.pid) for at in range(61)][-1]
    assert (told.pid, told.state) == (spinner.pid, "sleeping")


def test_who_speaks_is_not_silent_and_who_waits_to_be_shipped_neither(process):
    vigil, pid = Vigil(), process(SLEEPER).pid
    for at in range(500):
        assert vigil.look(at // 50, float(at), lambda: pid) is None
    for at in range(500, 1000):
        assert vigil.look(None, float(at), lambda: pid) is None


def test_a_silence_as_it_was_before_is_not_told_of(process):
    vigil, pid = Vigil(), process(SLEEPER).pid
    watch(vigil, 400, pid, mark=1)
    assert watch(vigil, 790, pid, start=401, mark=2) == []
    assert len(watch(vigil, 30, pid, start=1192, mark=2)) == 1


def test_a_stopped_process_is_told_of_once_and_is_watched_anew(process):
    one = process(SLEEPER)
    vigil = Vigil()
    watch(vigil, 70, one.pid)
    one.send_signal(signal.SIGSTOP)
    while sample(one.pid).state != "T":
        pass
    ((_, stopped),) = watch(vigil, 400, one.pid, start=71)
    assert (stopped.quiet_s, stopped.stopped) == (0.0, "SIGSTOP")
    one.send_signal(signal.SIGCONT)
    while sample(one.pid).state == "T":
        pass
    told = watch(vigil, 100, one.pid, start=472)
    assert told[0][1].quiet_s <= told[0][0] - 472 + 15


def test_a_busy_process_is_told_with_what_it_uses(process):
    spinner = process(SPINNER)
    before = sample(spinner.pid).cpu_s
    while sample(spinner.pid).cpu_s < before + 0.05:
        pass
    vigil = Vigil()
    vigil.look(1, 0.0, lambda: spinner.pid)
    vigil.look(1, 30.0, lambda: spinner.pid)
    before = sample(spinner.pid).cpu_s
    while sample(spinner.pid).cpu_s < before + 0.3:
        pass
    assert vigil.look(1, 61.0, lambda: spinner.pid).cpu > 0.005


def test_a_process_that_saves_is_waited_for(process):
    writer = process(WRITER)

    def write():
        writer.stdin.write(b"\n")
        writer.stdin.flush()
        writer.stdout.readline()

    vigil = Vigil()
    for at in range(300):
        if at and at % 15 == 0:
            write()
        assert vigil.look(1, float(at), lambda: writer.pid) is None
    assert len(watch(vigil, 80, writer.pid, start=300, mark=1)) >= 1


def test_who_did_not_look_did_not_watch(process):
    vigil, pid = Vigil(), process(SLEEPER).pid
    watch(vigil, 50, pid)
    assert vigil.look(7, 900.0, lambda: pid) is None
    assert watch(vigil, 58, pid, start=901) == []


def test_a_process_that_cannot_be_seen_is_watched_by_its_silence_and_one_that_is_gone_is_not():
    told = watch(Vigil(), 60, 0)
    assert (told[0][1].pid, told[0][1].cpu) == (0, None)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert watch(Vigil(), 200, ended.pid) == []


def test_a_process_is_found_by_its_pidfd(process):
    pid = process(SLEEPER).pid
    pidfd = os.pidfd_open(pid)
    assert pid_of(pidfd) == pid
    os.close(pidfd)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(gone.pid)
    gone.wait()
    assert pid_of(pidfd) == 0
    os.close(pidfd)


def test_a_frozen_cgroup_is_seen_in_either_version(tmp_path, monkeypatch, process):
    from smarttuner.bus import process as module

    pid = process(SLEEPER).pid
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    monkeypatch.setattr(module, "_CGROUPS", str(tmp_path))
    assert sample(pid).stopped == ""
    tried = 0
    for number, names, path in lines:
        if number == "0":
            said = _written(tmp_path / path.lstrip("/") / "cgroup.events", "populated 1\nfrozen 0\n", "populated 1\nfrozen 1\n")
        elif "freezer" in names.split(","):
            said = _written(tmp_path / "freezer" / path.lstrip("/") / "freezer.state", "THAWED\n", "FROZEN\n")
        else:
            continue
        assert [sample(pid).stopped for _ in said] == ["", "the cgroup freezer", ""]
        tried += 1
    assert tried


def _written(path, *texts):
    """Writes the texts, one before each turn; the first again at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for text in (*texts, texts[0]):
        path.write_text(text)
        yield text
