"""Jobs that fall silent under a real daemon, told apart from those that are stopped, ended or were silent while it was down."""

import signal
import subprocess
import sys

import pytest
from workplace import JOBS

pytestmark = pytest.mark.timeout(600)
STALL = "early_stopping: {strategies: {stall: {min_silence_s: 4, factor: 1}}}\nstore: {publish_s: 0.2}\n"


def alerts(place):
    return place.decisions(policy="stall") if list((place.data / "decisions").glob("*.parquet")) else []


def test_a_job_that_hangs_is_told_of_once_a_silence_and_one_that_is_stopped_or_well_is_not(place, until):
    place.config.write_text(STALL)
    daemon = place.daemon().ready()
    hung, stopped, well = (place.job(name, pause_s=0.01) for name in ("hung", "stopped", "well"))
    for job in (hung, stopped, well):
        job.reaches(50)
    stopped.process.send_signal(signal.SIGSTOP)
    (hung.folder / "hang").touch()
    (alert,) = until(lambda: alerts(place), told=place.said)
    assert (alert["run"], alert["action"], alert["status"]) == ("hung", "alert", "applied")
    assert f"pid {hung.process.pid} on " in alert["reason"]
    assert "is alive, sleeping, uses " in alert["reason"]
    assert alert["reason"].endswith(" CPU")
    assert daemon.counter("silences_watched") >= 1
    (hung.folder / "hang").unlink()
    hung.reaches(hung.logged + 50)
    stopped.process.send_signal(signal.SIGCONT)
    stopped.reaches(stopped.logged + 50)
    (hung.folder / "hang").touch()
    until(lambda: len(alerts(place)) == 2, told=place.said)
    hung.kill()
    until(lambda: place.states()["hung"] == ("failed", "died"), told=place.states)
    assert daemon.stop() == 0
    assert [one["run"] for one in alerts(place)] == ["hung", "hung"]
    assert place.said().count("no metric for") == 2


def test_a_daemon_that_is_killed_in_the_middle_of_a_silence_tells_of_it_once(place, until):
    place.config.write_text(STALL.replace("publish_s: 0.2", "publish_s: 60"))
    daemon = place.daemon().ready()
    job = place.job("hung", pause_s=0.01).reaches(50)
    until(lambda: daemon.ask()["jobs"] == 1)
    (job.folder / "hang").touch()
    until(lambda: daemon.counter("silences_watched") >= 1, told=place.said)
    daemon.kill()
    assert alerts(place) == []  # however late the kill came: what was decided is on the log alone
    place.config.write_text(STALL)
    daemon = place.daemon().ready()
    until(lambda: alerts(place), told=place.said)
    daemon.kill()
    daemon = place.daemon().ready()
    watched = daemon.counter("silences_watched")
    until(lambda: daemon.counter("silences_watched") > watched + 3, told=place.said)
    assert daemon.stop() == 0
    assert len(alerts(place)) == 1


def test_five_hundred_ended_runs_and_the_backlog_of_a_night_give_one_line_and_who_lives_is_judged_from_then_on(place, until):
    patience = "patience_based: {patience: 3, restore_best_weights: true}"
    gates = "quality_gates: {g: {series: val_loss, max: 0.5, after: 2}}"
    strategies = f"{{stall: {{min_silence_s: 4, factor: 1}}, {patience}}}"
    place.config.write_text(f"early_stopping: {{strategies: {strategies}, {gates}}}\nstore: {{publish_s: 0.2}}\n")
    command = [sys.executable, str(JOBS / "backlog_job.py"), str(place.spools), str(place.data)]
    subprocess.run([*command, "ended", "500"], check=True, env=place.environment, timeout=120)
    alive = subprocess.Popen([*command, "alive", str(place.notes)], env=place.environment)
    place.processes.append(alive)
    until(lambda: len(list(place.spools.glob("*.spool"))) == 501)
    daemon = place.daemon().ready()
    until(lambda: len(list(place.spools.glob("*.spool"))) == 1, told=place.said)
    until(lambda: "were older than" in place.said(), told=place.said)
    assert place.said().count("were older than") == 1
    assert f"{501 * 20} points of 501 attempts were older than 600 s" in place.said()
    until(lambda: len(place.runs()) == 501)
    (place.notes / "go").touch()
    until(lambda: place.decisions(run="alive", action="prune"), told=place.said)
    (place.notes / "end").touch()
    alive.wait()
    until(lambda: place.states()["alive"] == ("failed", "died"), told=place.said)
    assert daemon.stop() == 0
    assert {one["run"] for one in place.decisions()} == {"alive"}
    assert {one["action"] for one in place.decisions()} == {"keep-best", "prune", "alert"}
    assert place.said().count("were older than") == 1
