import os
import subprocess
import sys

import pytest
from smarttuner.core.errors import Unavailable
from smarttuner.core.events import Ack
from smarttuner.core.ulid import ulid
from smarttuner.trainer.journal import Journal, journals, last_attempt, sweep, unsaid

NOW = 1_700_000_000.0


def ack(order_id, status="applied"):
    return Ack(order_id, "r/a", "A1", status, NOW, step=7)


def test_what_was_begun_without_a_result_is_owed_as_interrupted_and_what_was_said_is_not_owed(tmp_path):
    journal = Journal.open(tmp_path, "r/a", "A1")
    for order in ("said", "unsaid", "open"):
        journal.begin(order, "checkpoint", {"why": order}, 7, NOW)
    journal.answer(ack("said"))
    journal.said("said")
    journal.answer(ack("unsaid", "failed"))
    owed = {one.id: (one.status, one.reason, one.step) for one in unsaid(journal.path, "r/a", "A1", NOW + 9)}
    assert owed == {"unsaid": ("failed", "", 7), "open": ("failed", "interrupted", 7)}
    assert journal.answered("said") == ack("said")
    assert journal.answered("open") is None


def test_a_kill_in_the_middle_of_an_effect_is_found_in_the_journal(tmp_path):
    code = (
        "import sys, os, signal; from pathlib import Path; from smarttuner.trainer.journal import Journal\n"
        "j = Journal.open(Path(sys.argv[1]), 'r', 'A1'); j.begin('one', 'restore', {}, 3, 1.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    attempt, path = last_attempt(tmp_path, "r", "A2")
    assert attempt == "A1"
    assert [(a.id, a.status, a.reason) for a in unsaid(path, "r", "A1", NOW)] == [("one", "failed", "interrupted")]


def test_a_torn_last_line_ends_the_reading(tmp_path):
    journal = Journal.open(tmp_path, "r", "A1")
    journal.begin("one", "restore", {}, 3, NOW)
    end = journal._end
    journal.answer(ack("one"))
    journal.close()
    raw = journal.path.read_bytes()
    journal.path.write_bytes(raw[: end + 20])
    assert [a.reason for a in unsaid(journal.path, "r", "A1", NOW)] == ["interrupted"]


def test_the_room_is_taken_beforehand_and_given_back_at_the_end(tmp_path):
    journal = Journal.open(tmp_path, "r", "A1")
    assert journal.path.stat().st_blocks * 512 >= 32 * 1024
    for number in range(300):
        journal.begin(f"order-{number}", "checkpoint", {"padding": "x" * 100}, number, NOW)
    journal.close()
    assert len(unsaid(journal.path, "r", "A1", NOW)) == 300
    assert b"\0" not in journal.path.read_bytes()


def test_a_journal_that_cannot_be_written_says_so(tmp_path):
    journal = Journal.open(tmp_path, "r", "A1")
    os.close(journal._file)
    journal._file = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(Unavailable, match="takes no line"):
        journal.begin("one", "prune", {}, 1, NOW)
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="no journal"):
        Journal.open(tmp_path / "file", "r", "A1")


def test_runs_whose_names_share_a_beginning_are_told_apart_and_old_journals_go(tmp_path):
    old, young = ulid(NOW - 40 * 86400), ulid(NOW)
    for run, attempt in (("a", old), ("a/b", young), ("a", young), ("a.b", young)):
        Journal.open(tmp_path, run, attempt).close()
    assert last_attempt(tmp_path, "a", "Z")[0] == young
    assert last_attempt(tmp_path, "a", young)[0] == old
    assert last_attempt(tmp_path, "b", "Z") is None
    sweep(tmp_path, NOW)
    assert sorted((run, attempt) for run, attempt, _ in journals(tmp_path)) == [("a", young), ("a.b", young), ("a~b", young)]
