"""Pause, resume, hold and unhold as people type them: real commands, a real daemon that is killed, real jobs."""

import json
import re

import pytest

pytestmark = pytest.mark.timeout(600)
STOPS = {"monitor": "val_loss", "goal": "min", "policies": {"patience": {"patience": 3, "restore_best_weights": False}}}


class Switched:
    """A place with a daemon, and jobs that patience would end as soon as they are stuck."""

    def __init__(self, place, until):
        self.place, self.until = place, until
        self.daemon = place.daemon().ready()

    def job(self, name, **more):
        return self.place.job(name, "switched_job.py", attach={**STOPS, **more}, pause_s=0.05)

    def type(self, *typed):
        """(exit code, the JSON that was said or None, what was said on stderr) of a command."""
        done = self.place.cli(*typed, "--json")
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr

    def does(self, *typed):
        code, said, error = self.type(*typed)
        assert code == 0, error
        assert said["in_force"] is True
        return said

    def control(self, run):
        done = self.place.cli("runs", run, "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return [row["control"] for row in rows if row["state"] == "running"]

    def attached(self, run, control="act"):
        """Waits until the daemon says so of the run's live attempt."""

        def there():
            live = [one for one in self.daemon.ask("runs")["runs"] if one["run"] == run and one["state"] == "running"]
            return [one["control"] for one in live] == [control]

        self.until(there, every_s=0.1, told=self.place.said)

    def decided(self, run, count=1, **having):
        """The prunes of the run as `decisions` tells them, once there are as many of them that have this."""

        def there():
            made = (self.place.data / "decisions").is_dir() and any((self.place.data / "decisions").glob("*.parquet"))
            return made and len(self.place.decisions(run=run, action="prune", **having)) >= count

        self.until(there, every_s=0.1, told=self.place.said)
        done = self.place.cli("decisions", run, "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return [row for row in rows if row["action"] == "prune" and having.items() <= row.items()]

    def stuck(self, job):
        (job.folder / "stuck").touch()

    def dies_and_comes_back(self):
        self.daemon.kill()
        self.daemon = self.place.daemon().ready()


@pytest.fixture
def switched(place, until):
    return Switched(place, until)


def test_a_pause_of_all_makes_would_of_what_policies_decide_also_of_later_runs_and_survives_a_kill(switched):
    early = switched.job("early")
    switched.attached("early")
    switched.does("pause", "--all", "--reason", "the file server is slow")
    late = switched.job("late")
    switched.attached("late", "paused")
    switched.dies_and_comes_back()
    switched.attached("early", "paused")
    assert switched.control("early") == ["paused"]
    (shown,) = json.loads(switched.place.cli("status", "--json").stdout)["switches"]
    assert (shown["kind"], shown["run"], shown["until"], shown["reason"]) == ("pause", None, None, "the file server is slow")
    assert "paused: all runs, by " in switched.place.cli("status").stdout
    for job in (early, late):
        switched.stuck(job)
        (row,) = switched.decided(job.name)
        assert (row["status"], row["mode"], row["policy"]) == ("would", "observe", "patience")
        assert re.fullmatch(r"paused: \S+ paused all runs at \S+Z \(the file server is slow\)", row["refused_by"])
    code, by_hand, said = switched.type("decide", "early", "checkpoint", "--wait")
    assert (code, by_hand["status"]) == (0, "applied"), said
    assert switched.type("resume", "early")[0] == 12
    switched.dies_and_comes_back()
    switched.does("resume", "--all")
    for job in (early, late):
        (row,) = switched.decided(job.name, status="applied")
        assert row["policy"] == "patience"
        switched.until(lambda job=job: job.lines("runs"), told=job.said)
        assert len(switched.decided(job.name)) == 2
    assert json.loads(switched.place.cli("status", "--json").stdout)["switches"] == []


def test_a_held_run_is_ended_by_nobody_nor_is_a_later_attempt_until_it_is_unheld(switched):
    job = switched.job("kept")
    switched.attached("kept")
    said = switched.does("hold", "kept", "--reason", "the baseline")
    assert (said["action"], said["run"], said["was"]) == ("hold", "kept", None)
    switched.attached("kept", "held")
    switched.dies_and_comes_back()
    switched.stuck(job)
    (row,) = switched.decided("kept")
    assert (row["status"], row["mode"]) == ("refused", "act")
    assert re.fullmatch(r"hold: \S+ held this run at \S+Z \(the baseline\)", row["refused_by"])
    code, by_hand, error = switched.type("decide", "kept", "prune", "--wait")
    assert (code, by_hand["status"]) == (12, "refused")
    assert "smart-tuner unhold kept" in error
    assert switched.type("decide", "kept", "checkpoint", "--wait")[0] == 0
    job.kill()
    again = switched.place.job("kept2", "switched_job.py", {"SMART_TUNER_RUN": "kept"}, attach=STOPS, pause_s=0.05)
    switched.attached("kept", "held")
    (again.folder / "stuck").touch()
    rows = switched.decided("kept", count=2, policy="patience")
    assert {row["status"] for row in rows} == {"refused"}
    assert len({row["attempt"] for row in rows}) == 2
    switched.dies_and_comes_back()
    assert switched.does("unhold", "kept")["was"]["reason"] == "the baseline"
    (row,) = switched.decided("kept", status="applied", policy="patience")
    assert row["attempt"] == rows[-1]["attempt"]


def test_one_run_is_paused_and_the_others_are_not_and_the_pause_ends_in_time(switched):
    one, other = switched.job("one"), switched.job("other")
    switched.attached("one")
    switched.attached("other")
    switched.does("pause", "one")
    assert switched.does("pause", "one", "--for", "1h")["was"]["until"] is None
    switched.stuck(one)
    switched.stuck(other)
    (row,) = switched.decided("other")
    assert row["status"] in ("pending", "applied")
    first = switched.decided("one")[0]
    assert first["status"] == "would"
    assert " until 20" in first["refused_by"]
    assert switched.does("pause", "one", "--for", "2s")["was"]["until"].startswith("20")  # only now is it short: commands take time
    (row,) = switched.decided("one", status="applied")
    assert row["id"] != first["id"]
    assert "its time is over" in switched.place.said()
    assert "paused this run" in switched.place.said()


def test_a_hold_is_rebuilt_from_the_log_where_the_state_is_lost(switched):
    job = switched.job("kept")
    switched.attached("kept")
    switched.does("hold", "kept", "--for", "7d")
    switched.daemon.kill()
    for path in switched.place.data.glob("state.db*"):
        path.unlink()
    switched.daemon = switched.place.daemon().ready()
    switched.attached("kept", "held")
    switched.stuck(job)
    (row,) = switched.decided("kept")
    assert row["refused_by"].startswith("hold: ")


WRONG = [
    (("pause",), 2, "which run?"),
    (("pause", "steady", "--all"), 2, "exclude"),
    (("hold",), 2, "RUN"),
    (("pause", "steady", "--for", "soon"), 2, "not a duration"),
    (("pause", "steady", "--for", "0s"), 2, "above 0"),
    (("pause", "steady", "--for", "9999999d"), 2, "ten years"),
    (("hold", "stedy"), 12, "steady"),
    (("unhold", "nobody"), 12, "no run is called 'nobody'"),
]


def test_what_is_typed_wrongly_ends_with_its_code_and_a_word_of_help(switched):
    job = switched.job("steady")
    switched.attached("steady")
    for typed, code, word in WRONG:
        got, _, said = switched.type(*typed)
        assert (got, word in said) == (code, True), (typed, got, said)
    code, said, _ = switched.type("resume", "steady")
    assert (code, said["was"]) == (0, None)
    assert "was not held" in switched.place.cli("unhold", "steady").stdout
    assert switched.control("steady") == ["act"]
    switched.daemon.stop()
    for command in ("pause", "resume", "hold", "unhold"):
        got, _, said = switched.type(command, "steady")
        assert (got, "hint: start one" in said) == (4, True)
    job.kill()


def test_a_group_loses_so_many_runs_an_hour_and_never_its_last_one_also_behind_a_kill(place, until):
    place.config.write_text("limits: {prunes_per_hour: 1}\nstore: {publish_s: 0.2}\n")
    switched = Switched(place, until)
    jobs = {name: switched.job(name, group=group) for name, group in (("a", "g"), ("b", "g"), ("c", "g"), ("solo", "h"))}
    for name in jobs:
        switched.attached(name)
    switched.stuck(jobs["a"])
    switched.decided("a", status="applied")
    switched.dies_and_comes_back()
    for name in ("b", "solo"):
        switched.attached(name)
        switched.stuck(jobs[name])
    (b,), (solo,) = (switched.decided(name, policy="patience") for name in ("b", "solo"))
    assert (b["status"], b["refused_by"]) == ("refused", "limit: 1 prunes an hour in group g (limits.prunes_per_hour)")
    assert solo["refused_by"] == "limit: no other run of group h is left (limits.never_last_of_group)"
    code, by_hand, said = switched.type("decide", "solo", "prune", "--wait")
    assert (code, by_hand["status"]) == (0, "applied"), said


def test_peers_end_no_run_before_its_share_of_their_progress_also_behind_a_kill(place, until):
    place.config.write_text("limits: {min_peer_progress: 0.9}\nstore: {publish_s: 0.2}\n")
    switched = Switched(place, until)
    among = {"monitor": "val_loss", "goal": "min", "group": "g", "policies": {"median": {"peers": 1, "after": 3}}}
    ahead = place.job("ahead", "switched_job.py", attach=among, pause_s=0.01)

    def steps(run):
        (one,) = [one for one in switched.daemon.ask("runs")["runs"] if one["run"] == run] or [{"series": {}}]
        return one["series"].get("val_loss", {"step": 0})["step"]

    until(lambda: steps("ahead") > 200, told=ahead.said)
    switched.dies_and_comes_back()
    late = place.job("late", "switched_job.py", attach=among, pause_s=0.05)
    switched.attached("late")
    switched.stuck(late)
    (row,) = switched.decided("late", policy="median")
    why = r"limit: at \d+% of its furthest peer's progress, 90% is asked for \(limits.min_peer_progress\)"
    assert row["status"] == "refused"
    assert re.fullmatch(why, row["refused_by"])
