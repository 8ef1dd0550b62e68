"""The command line as people and scripts use it: real commands against a real daemon that serves real jobs."""

import json

import pytest

pytestmark = pytest.mark.timeout(600)


class Steered:
    """A daemon, a job of torch that allows everything, and one that lets itself only be watched."""

    def __init__(self, place, until):
        self.place = place
        place.config.write_text("policies: {default: observe}\nstore: {publish_s: 0.2}\n")
        self.daemon = place.daemon().ready()
        self.job = place.job("steered", torch=True, descent=3, pause_s=0.01, attach={"monitor": "val_loss", "goal": "min"})
        self.watched = place.job("watched", attach={"mode": "observe"})
        self.job.reaches(30, 300.0)  # torch may take that long to import on a machine with much else to do
        self.watched.reaches(5)
        until(lambda: {"steered", "watched"} <= set(place.states()))

    def decide(self, *arguments):
        """(exit code, the decision's row or None, what was said on stderr) of `decide … --wait --json`."""
        done = self.place.cli("decide", *arguments, "--wait", "--json")
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.fixture(scope="module")
def steered(tmp_path_factory, workplace, until):
    place = workplace(tmp_path_factory.mktemp("steered") / "place")
    try:
        yield Steered(place, until)
    finally:
        place.shut()


CHANGES = [
    (("scale-lr", "0.5"), 0.5, 0.25),
    (("set-lr", "0.125"), 0.25, 0.125),
    (("scale-lr", "0.5"), 0.125, 0.0625),
    (("release-lr",), 0.0625, 0.5),
]


def test_learning_rates_are_changed_held_and_released_by_hand(steered):
    for change, before, after in CHANGES:
        code, row, said = steered.decide("steered", *change, "--reason", "I say so")
        assert code == 0, said
        assert (row["status"], row["before"], row["after"]) == ("applied", before, after)
        assert (row["reason"], row["policy"], row["mode"]) == ("I say so", "person", "act")
        assert row["latency_ms"] >= 0
        assert row["applied_step"] >= 0
    told = [(one["before"], one["after"]) for one in steered.job.lines("decisions") if one["action"].endswith("-lr")]
    assert told == [(before, after) for _, before, after in CHANGES]


def test_a_learning_rate_of_one_optimizer_or_group_by_name(steered):
    code, row, said = steered.decide("steered", "scale-lr", "0.5", "--group", "0", "--optimizer", "0", "--min-lr", "0.3")
    assert (code, row["status"], row["after"]) == (0, "applied", 0.3), said
    code, row, said = steered.decide("steered", "release-lr", "--optimizer", "0")
    assert (code, row["after"]) == (0, 0.5), said
    code, row, said = steered.decide("steered", "scale-lr", "0.5", "--optimizer", "critic")
    assert (code, row["status"]) == (12, "refused")
    assert "no optimizer is called critic (there are: 0)" in said
    assert steered.place.cli("decide", "steered", "prune", "--group", "0").returncode == 2


def test_a_checkpoint_and_the_best_weights_by_hand(steered):
    code, row, said = steered.decide("steered", "checkpoint")
    assert (code, row["status"]) == (0, "applied"), said
    assert len(steered.job.lines("checkpoints")) == 1
    code, row, said = steered.decide("steered", "restore", "best")
    assert (code, row["status"], row["after"]) == (0, "applied", 15), said  # val_loss falls three times, at steps 5, 10 and 15


def test_a_run_that_is_only_observed_refuses(steered):
    code, row, said = steered.decide("watched", "prune")
    assert code == 12
    assert row["status"] == "refused"
    assert "mode=observe" in row["refused_by"]
    assert "hint: " in said
    steered.watched.reaches(steered.watched.logged + 10)


WRONG = [
    (("nobody", "prune"), 12, "no run is called 'nobody'"),
    (("steerd", "prune"), 12, "steered"),
    (("steered", "prun"), 2, "prune"),
    (("steered", "scale-lr", "fast"), 2, "wants a number"),
    (("steered", "restore", "yesterday"), 2, "best, last or a step"),
    (("steered",), 2, "ACTION"),
]


def test_what_is_typed_wrongly_ends_with_its_code_and_a_word_of_help(steered):
    for typed, code, said in WRONG:
        done = steered.place.cli("decide", *typed)
        assert done.returncode == code, typed
        assert said in done.stderr, typed
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_status_runs_metrics_and_decisions_speak_json(steered):
    code, status = steered.place.status()
    assert code == 0, status
    assert status["jobs"] == 2
    assert {"lanes", "counters", "bus", "store", "problems", "daemon"} <= set(status)
    assert {"name", "lag", "rate", "errors"} <= set(status["lanes"][0])

    def lines(*arguments):
        done = steered.place.cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    runs = {row["run"]: row for row in lines("runs")}
    assert {"state", "control", "last_metric", "series", "judged_by"} <= set(runs["steered"])
    assert runs["watched"]["control"] == "observe"
    points = lines("metrics", "steered", "x", "--last", "3")
    assert [row["value"] for row in points] == [8.0 * row["step"] for row in points]
    assert len(points) == 3
    assert all(row["run"] == "watched" for row in lines("decisions", "watched"))


def test_a_prune_by_hand_ends_the_job_which_says_why(steered, until):
    code, row, said = steered.decide("steered", "prune", "--reason", "enough")
    assert (code, row["status"]) == (0, "applied"), said
    assert steered.job.ended() == 0
    assert "enough" in steered.job.said()
    until(lambda: steered.place.states()["steered"] == ("pruned", "enough"), told=steered.place.states)
    done = steered.place.cli("decide", "steered", "checkpoint", "--wait", "--json")
    assert done.returncode == 12
    assert "over" in json.loads(done.stdout)["refused_by"]
    steered.watched.tell_to_end()
    assert steered.watched.ended() == 0
    assert steered.daemon.stop() == 0


def test_without_a_daemon_commands_say_how_to_start_one(place):
    for command in (("status",), ("decide", "run", "prune")):
        done = place.cli(*command)
        assert done.returncode == 4
        assert "no daemon listens" in done.stderr
        assert "hint: start one: smart-tuner daemon" in done.stderr
    code, status = place.status()
    assert (code, status["daemon"]) == (4, None)


def test_a_lane_that_cannot_write_makes_status_say_degraded_and_why(place, until):
    daemon = place.daemon().ready()
    job = place.job("job").reaches(20)
    metrics = place.data / "metrics"
    metrics.rename(place.data / "away")
    metrics.write_text("a file where the folder was")
    until(lambda: daemon.ask()["problems"], told=place.said)
    code, status = place.status()
    assert code == 1
    assert any("metrics_store" in problem for problem in status["problems"])
    metrics.unlink()
    (place.data / "away").rename(metrics)
    until(lambda: not daemon.ask()["problems"], told=place.said)
    job.tell_to_end()
    assert job.ended() == 0
    until(lambda: place.states() == {"job": ("finished", None)}, told=place.said)
    assert daemon.stop() == 0
    place.whole("job", job.logged)
