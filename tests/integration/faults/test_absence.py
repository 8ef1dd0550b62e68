"""The daemon is not there, is paused, is told to end or to read its configuration again, while jobs go on."""

import os
import pathlib
import signal
import time

import pytest
from smarttuner.bus.spool_file import open_spool
from smarttuner.bus.spool_reader import SpoolReader

pytestmark = pytest.mark.timeout(600)


def test_what_jobs_logged_without_a_daemon_is_named_by_doctor_and_shipped_whole_by_the_next(place, until):
    done, killed = place.job("done", steps=300), place.job("killed")
    assert done.ended() == 0
    assert "what it logged waits in" in done.said()
    killed.reaches(200).kill()
    doctor = place.cli("doctor")
    for run in ("done", "killed"):
        assert f"run {run}: " in doctor.stdout
    assert f"smart-tuner daemon --data-dir {place.data}" in doctor.stdout
    daemon = place.daemon().ready()
    until(lambda: place.states() == {"done": ("finished", None), "killed": ("failed", "died")}, told=place.states)
    until(lambda: not list(place.spools.glob("*.spool")))
    assert "bytes wait" not in place.cli("doctor").stdout
    assert daemon.stop() == 0
    place.whole("done", 300)
    place.whole("killed", killed.logged, exact=False)
    for _, rows in place.metrics().groupby("attempt"):
        seqs = rows.groupby("offset")["seq"].agg(["min", "max"]).sort_index()
        assert (seqs["min"].iloc[1:].values > seqs["max"].iloc[:-1].values).all(), "the order of the log is not the job's"


def first_unread(spool):
    """The position of the first point in a spool that no daemon has taken yet."""
    fd, _ = open_spool(str(spool))
    reader = SpoolReader(fd)
    rows = reader.read(time.monotonic())
    reader.close()
    return rows[0].positions[0]


def test_sigterm_ends_with_0_stores_all_that_was_taken_and_a_restart_goes_on(place, until):
    jobs = [place.job(f"job{i}") for i in range(3)]
    daemon = place.daemon().ready()
    for job in jobs:
        job.reaches(200)
    until(lambda: place.metrics()["attempt"].nunique() == 3, told=place.said)  # they look for a daemon once a second
    assert daemon.stop(30.0) == 0
    assert not (place.data / "bus.sock").exists()
    stored = place.metrics().groupby("attempt")["seq"].max().to_dict()
    assert len(stored) == 3
    for job in jobs:
        job.reaches(job.logged + 10)  # it notices nothing
    taken = {spool.stem: first_unread(spool) for spool in place.spools.glob("*.spool")}
    assert {attempt: last + 1 for attempt, last in stored.items()} == taken
    daemon = place.daemon().ready()
    for job in jobs:
        job.tell_to_end()
        assert job.ended() == 0
    until(lambda: daemon.ask()["jobs"] == 0)
    assert daemon.stop() == 0
    for job in jobs:
        place.whole(job.name, job.logged)
    assert set(place.states().values()) == {("finished", None)}


RULES = """
early_stopping:
  strategies:
    patience_based: {patience: PATIENCE, min_delta: 0.0, mode: min, restore_best_weights: false}
"""


def test_sighup_keeps_the_old_rules_when_the_file_is_broken_and_takes_new_ones(place, until):
    place.config.write_text(RULES.replace("PATIENCE", "100000"))
    daemon = place.daemon().ready()
    job = place.job("job", descent=0).reaches(100)
    place.config.write_text(RULES.replace("PATIENCE", "six"))
    daemon.send(signal.SIGHUP)
    until(lambda: "the old one stays in force" in place.said())
    assert f"{place.config}:4: early_stopping.strategies.patience_based.patience" in place.said()
    assert "hint: " in place.said()
    job.reaches(job.logged + 100)
    assert place.decisions(action="prune") == []
    place.config.write_text(RULES.replace("PATIENCE", "5"))
    daemon.send(signal.SIGHUP)
    assert job.ended() == 0
    until(lambda: place.states().get("job", ("",))[0] == "pruned", told=place.states)
    until(lambda: [row["status"] for row in place.decisions(action="prune")] == ["applied"], told=place.decisions)
    (row,) = place.decisions(action="prune")
    assert row["reason"].endswith("evaluations (best at step 5)")
    assert daemon.stop() == 0
    place.whole("job", job.logged)


def paused(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def is_past_its_best(evaluations):
    """Twenty evaluations after a best that lies behind the start of the pause."""
    best = min(evaluations, key=lambda one: one["val_loss"])["step"]
    return 60 < best <= evaluations[-1]["step"] - 20


def test_restored_best_weights_are_bit_for_bit_those_of_the_best_evaluation_with_the_daemon_paused_around_it(place, until):
    rules = RULES.replace("PATIENCE", "60").replace("restore_best_weights: false", "restore_best_weights: true")
    place.config.write_text(rules)
    daemon = place.daemon().ready()
    job = place.job("overfits", "overfitting_job.py", steps=4000, pause_s=0.04, wait_at=60)
    until(lambda: len(job.lines("evaluations")) == 61, told=job.said)
    daemon.send(signal.SIGSTOP)
    until(lambda: paused(daemon.pid))
    before = job.lines("evaluations")[-1]["step"]
    (job.folder / "go").touch()
    paused_at = time.monotonic()
    until(lambda: is_past_its_best(job.lines("evaluations")), told=job.said)
    time.sleep(max(0.0, paused_at + 5.0 - time.monotonic()))
    after = job.lines("evaluations")[-1]["step"]
    os.kill(daemon.pid, signal.SIGCONT)
    assert job.ended() == 0
    evaluations, (end,) = job.lines("evaluations"), job.lines("runs")
    best = min(evaluations, key=lambda one: one["val_loss"])
    assert before < best["step"] < after <= evaluations[-1]["step"]
    assert end["pruned"]
    assert end["weights"] == best["weights"]
    assert end["weights"] not in {one["weights"] for one in evaluations if one is not best}
    until(lambda: [row["status"] for row in place.decisions(action="prune")] == ["applied"], told=place.decisions)
    (row,) = place.decisions(action="prune")
    assert f'"restored":{best["step"]}' in row["after"]
    assert row["step"] == best["step"] + 60
    assert daemon.stop() == 0
