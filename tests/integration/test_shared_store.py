"""A daemon that was paused in mid-publish, lost its partition and wakes up: nothing of it reaches the files."""

import importlib.util
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from smarttuner.consumers.tenure import Fenced

WRITER = pathlib.Path(__file__).with_name("shared_store_writer.py")
spec = importlib.util.spec_from_file_location("shared_store_writer", WRITER)
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)


def expected(last):
    return sorted(p for n in range(last) if n % 5 for p in range(n * 10, n * 10 + 10))


def whole(folder, last):
    """Every point before record `last` once, the runs and the decisions too."""
    assert sorted(pd.read_parquet(folder / "metrics").seq) == expected(last)
    assert sorted(pd.read_parquet(folder / "runs").attempt) == sorted(f"a{n}" for n in range(0, last, 15))
    decisions = pd.read_parquet(folder / "decisions")
    assert sorted(decisions.id) == sorted(f"d{n}" for n in range(5, last, 15))
    assert set(decisions.status[decisions.id.isin([f"d{n}" for n in range(5, last - 5, 15)])]) <= {"applied"}


def stopped(folder, first, last, where):
    command = [sys.executable, str(WRITER), str(folder), str(first), str(last), where]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    return child


@pytest.mark.parametrize("where", ["write", "rename"])
@pytest.mark.parametrize("seals", [False, True], ids=["grows", "seals"])
def test_what_a_paused_store_was_about_to_publish_is_refused_when_another_has_taken_over(tmp_path, where, seals):
    first, last = (20, 80) if seals else (10, 30)
    child = stopped(tmp_path, first, last, where)
    try:
        whole(tmp_path, first)
        successor = writer.opened(str(tmp_path))
        assert successor.position(("metrics", 0)) <= first
        writer.fold(successor, first + 5)
        successor.flush(writer.NOW)
        whole(tmp_path, first + 5)
        child.send_signal(signal.SIGCONT)
        assert child.stdout.readline() == "fenced 0\n"
        whole(tmp_path, first + 5)
        writer.fold(successor, last + 50)
        successor.flush(writer.NOW)
        whole(tmp_path, last + 50)
        child.stdin.write("\n")  # it is assigned the partition again
        child.stdin.flush()
        assert child.stdout.readline() == "on\n"
        whole(tmp_path, last + 100)
        successor.handle([writer.record(last + 51)], writer.NOW)
        with pytest.raises(Fenced):
            successor.flush(writer.NOW)
        whole(tmp_path, last + 100)
    finally:
        child.kill()
        child.communicate()
    assert not list((tmp_path / "metrics").glob(".*"))


READS = int(os.environ.get("SMART_TUNER_TEST_READS", "120"))


def test_bare_reads_find_every_row_once_while_daemons_exchange_partitions_in_time_and_too_late(tmp_path):
    (tmp_path / "board").write_bytes(bytes(1024))
    board, dice = writer.board_of(tmp_path / "board"), random.Random(1)
    partitions = range(writer.PARTITIONS)
    for n in partitions:
        board[writer.OWNER + n] = n % 2
    command = [sys.executable, str(WRITER), str(tmp_path), str(tmp_path / "board")]
    daemons = [subprocess.Popen([*command, str(me)], stdout=subprocess.PIPE, text=True) for me in (0, 1)]
    moves, problems = 0, []
    try:
        deadline = time.monotonic() + 60
        while not all(board[writer.VISIBLE + n] for n in partitions):
            assert all(one.poll() is None for one in daemons)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for _ in range(READS):
            before = [board[writer.VISIBLE + n] for n in partitions]
            rows = pd.read_parquet(tmp_path / "metrics", columns=["partition", "seq"])
            for n in partitions:
                seen = rows.seq[rows.partition == n]
                if seen.duplicated().any() or len(seen) < before[n]:
                    problems.append((n, len(seen), seen.nunique(), before[n]))
            for name in ("runs", "decisions"):
                assert (
                    not pd.read_parquet(tmp_path / name).duplicated(["attempt", "run"] if name == "runs" else ["id", "run"]).any()
                )
            board[writer.READS] += 1
            if dice.random() < 0.3:
                moved = writer.OWNER + dice.choice(partitions)
                board[moved] = 1 - board[moved]
                moves += 1
            assert all(one.poll() is None for one in daemons)
    finally:
        board[writer.STOP] = 1
        said = [one.communicate(timeout=60)[0] for one in daemons]
    assert problems == []
    assert moves > READS // 6
    assert sum(map(int, said)) > 0, "nobody was ever late"
    assert min(board[writer.VISIBLE + n] for n in partitions) > 400 + 2 * READS
