"""What a decision is answered where no job can: cut short by a kill, for a run that is over, past its time."""

import json
import signal

import pytest

pytestmark = pytest.mark.timeout(600)
OVER = 12
"""What `decide` ends with where the run is over."""


@pytest.fixture(scope="module")
def house(tmp_path_factory, workplace):
    """A place whose daemon waits half a second for an answer."""
    place = workplace(tmp_path_factory.mktemp("answers") / "place")
    place.config.write_text("decisions: {not_after_s: 0.5}\nstore: {publish_s: 0.2}\n")
    place.daemon().ready()
    try:
        yield place
    finally:
        place.shut()


def rows(place, run):
    return place.decisions(run=run) if list((place.data / "decisions").glob("[!.]*")) else []


def test_a_checkpoint_that_a_kill_cut_short_is_failed_interrupted_and_never_repeated(house, until):
    first = house.job("first", "interrupted_job.py", run="cut", dies=True, group="before").reaches(5)
    until(lambda: "cut" in house.states())

    def died():  # an order that a busy machine brings too late is expired: then another
        assert house.cli("decide", "cut", "checkpoint").returncode in (0, OVER)
        return first.process.poll() is not None

    until(died, told=house.said)
    assert first.ended() == -signal.SIGKILL
    # of several orders one may be refused, for the attempt was over, and another expired
    until(lambda: (found := {row["status"] for row in rows(house, "cut")}) and found <= {"refused", "expired"}, told=house.said)
    second = house.job("second", "interrupted_job.py", run="cut", dies=False, group="after").reaches(5)
    until(lambda: "failed" in [row["status"] for row in rows(house, "cut")], told=lambda: house.said() + second.said())
    (row,) = [row for row in rows(house, "cut") if row["status"] == "failed"]
    assert row["refused_by"] == "job: interrupted"
    assert f"decision {row['id']} of attempt {row['attempt']} is answered failed: interrupted" in second.said()
    assert len(first.lines("checkpoints")) == 1
    assert second.lines("checkpoints") == []
    assert house.status()[1]["counters"].get("events_strange", 0) == 0
    second.tell_to_end()
    assert second.ended() == 0


def test_a_run_that_is_over_refuses_what_is_decided_about_it(house, until):
    job = house.job("over").reaches(5)
    job.tell_to_end()
    assert job.ended() == 0
    until(lambda: house.states().get("over", ("",))[0] == "finished")
    done = house.cli("decide", "over", "prune", "--wait", "--json")
    assert done.returncode == OVER
    row = json.loads(done.stdout)
    assert (row["status"], row["refused_by"]) == ("refused", "scope: the attempt is over (finished)")


def test_what_a_job_does_not_come_to_in_time_is_expired_and_has_no_effect(house, until):
    job = house.job("slow").reaches(5)
    until(lambda: "slow" in house.states())
    job.process.send_signal(signal.SIGSTOP)
    done = house.cli("decide", "slow", "prune", "--wait", "--json")
    assert json.loads(done.stdout)["status"] == "expired", done.stderr
    job.process.send_signal(signal.SIGCONT)
    job.reaches(job.logged + 50)
    assert [row["status"] for row in rows(house, "slow")] == ["expired"]
    job.tell_to_end()
    assert job.ended() == 0
    assert house.states()["slow"][0] in ("running", "finished")
