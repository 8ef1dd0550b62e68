"""Pause, resume and hold in a fleet: one word reaches every partition, whoever judges it, and stays when it moves."""

import json

import pytest
from kafka_fleet import Fleet, undisturbed
from workplace import until

pytestmark = pytest.mark.timeout(600)  # of processes on a machine that others use too
RUNS = 3


def typed(host, *words):
    done = host.cli(*words, "--json")
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def kept_from_jobs(fleet, word="paused: "):
    """The runs of which a prune was kept from the job."""
    table = fleet.table("decisions")
    if not len(table):
        return set()
    return set(table[(table["action"] == "prune") & table["refused_by"].astype(str).str.startswith(word)]["run"])


def test_a_pause_of_all_holds_in_every_partition_also_when_its_judge_is_killed(kafka_broker, kafka_prefix, tmp_path):
    fleet = Fleet(tmp_path, kafka_prefix, kafka_broker.bootstrap)
    try:
        east, west = fleet.host("east").start(), fleet.host("west").start()
        fleet.wait_judged(east, west)
        fleet.jobs += [host.stream(name, runs=RUNS, pause_s=0.02) for name, host in (("e", east), ("w", west))]
        fleet.jobs.append(west.stream("s", runs=1, pause_s=0.02, steady=1))
        fleet.more_prunes(2)
        code, said, error = typed(east, "pause", "--all", "--reason", "the file server")
        assert (code, said["in_force"]) == (0, True), error
        until(lambda: len(kept_from_jobs(fleet)) == 2 * RUNS, 120.0, 0.3, fleet.told)
        before = fleet.prunes()

        east.daemon.kill()
        fleet.wait_judged(west)
        fleet.jobs.append(west.stream("late", runs=1, pause_s=0.02))
        until(lambda: "late-0.0" in kept_from_jobs(fleet), 120.0, 0.3, fleet.told)
        east.start()
        fleet.wait_judged(east, west)
        for host in (east, west):
            (shown,) = json.loads(host.cli("status", "--json").stdout)["switches"]
            assert (shown["kind"], shown["run"], shown["reason"]) == ("pause", None, "the file server")
        assert fleet.prunes() == before

        code, said, error = typed(west, "hold", "s-0.0")
        assert code == 0, error
        assert typed(west, "decide", "s-0.0", "prune")[0] == 0
        until(lambda: kept_from_jobs(fleet, "hold: ") == {"s-0.0"}, 60.0, 0.3, fleet.told)

        assert typed(west, "resume", "--all")[0] == 0
        fleet.more_prunes(2 * RUNS + 1)
        fleet.end()
        rows = fleet.table("decisions")
        expected, _ = undisturbed(fleet)
        assert set(rows["id"]) == set(expected)
        would = set(rows[rows["status"] == "would"]["id"])
        assert would == {name for name, one in expected.items() if one.status == "would"}
        assert len(would) >= 2 * RUNS + 1
    finally:
        fleet.shut()
