"""kill -9 of daemon and jobs while they stream: nothing is lost, nothing comes twice, every decision is answered once."""

import json
import random
import time
from collections import Counter

import pytest
from smarttuner.bus.local import LocalLog
from smarttuner.consumers.judge import Judge
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import Decision, decode
from smarttuner.core.ports import CONTROL, METRICS, RUNS
from smarttuner.daemon.config import load
from smarttuner.daemon.config_rules import gates
from smarttuner.daemon.rule_book import RuleBook

pytestmark = pytest.mark.timeout(600)  # of processes on a machine that others use too
KILLS = 20
PRUNES = 4
"""At least so many runs are ended, however seldom the kills of a busy machine leave a daemon the time for it."""
DESCENT, PATIENCE = 6, 8
RULES = f"""
early_stopping:
  strategies:
    patience_based: {{patience: {PATIENCE}, min_delta: 0.0, mode: min, restore_best_weights: false}}
    plateau_detection: {{factor: 0.95, patience: 9, threshold: 0.0, cooldown: 0}}
limits: {{decisions_per_hour: 100000}}
store: {{publish_s: 0.2}}
"""


def undisturbed(place):
    """What a judge that nobody killed concludes from the same log, by id."""
    config = load(place.config, place.environment).config
    judge = Judge(RuleBook(config), gates(config), config.monitoring.metrics.primary, config.decisions.not_after_s)
    log = LocalLog(str(place.data), SystemClock())
    try:
        bus, found = log.connect(), {}
        while (batch := bus.poll((METRICS, RUNS, CONTROL), "undisturbed", lambda partition: 0)).records:
            for message in judge.handle(batch.records, time.time()):
                event = decode(message.body)
                if isinstance(event, Decision):
                    found[event.id] = event
        return found
    finally:
        log.close()


def kill_again_and_again(place, seed):
    """Starts and kills the daemon KILLS times: sometimes while it comes up, mostly while it works. Asks for a checkpoint by
    hand now and then; the decisions that were promised."""
    chance, promised = random.Random(seed), []
    for number in range(KILLS):
        daemon = place.daemon()
        if number % 2:
            time.sleep(chance.uniform(0.3, 1.8))
        else:
            daemon.ready()
            answer = daemon.ask("request", run="steered", action="checkpoint")
            if answer and "id" in answer:
                promised.append(answer["id"])
            time.sleep(chance.uniform(0.0, 0.8))
        daemon.kill()
    return promised


def test_twenty_kills_of_the_daemon_lose_nothing_and_double_nothing(place, until):
    place.config.write_text(RULES)
    steered = place.job("steered", torch=True, pause_s=0.02, descent=0, attach={"policies": {"patience": {"patience": 10**6}}})
    pruned = [place.job(f"pruned{i}", pause_s=0.015, descent=DESCENT, runs=True) for i in range(2)]
    promised = kill_again_and_again(place, seed=3)
    daemon = place.daemon().ready()
    until(lambda: sum(len(job.lines("runs")) for job in pruned) >= PRUNES, told=place.said)
    for job in (steered, *pruned):
        job.tell_to_end()
    assert [job.ended() for job in (steered, *pruned)] == [0, 0, 0]
    until(lambda: daemon.ask()["jobs"] == 0)
    until(lambda: all(state != "running" for state, _ in place.states().values()), told=place.states)
    assert daemon.stop() == 0

    runs = [one for job in (steered, *pruned) for one in job.lines("runs")]
    assert len(runs) >= PRUNES + 3
    for one in runs:
        place.whole(one["run"], one["logged"])
        assert one["failures"] == 0
    why = f"val_loss no better than 1 for {PATIENCE} evaluations (best at step {5 * DESCENT})"
    assert place.states() == {one["run"]: ("pruned", why) if one["pruned"] else ("finished", None) for one in runs}
    rows = {row["id"]: row for row in place.decisions()}
    assert len(rows) == len(place.decisions())
    check_against_an_undisturbed_judge(place, rows)
    check_what_is_known_in_advance(rows, runs)
    check_the_jobs_side(rows, steered, pruned, promised)


def check_against_an_undisturbed_judge(place, rows):
    expected = undisturbed(place)
    assert set(rows) == set(expected)
    for name, one in expected.items():
        row = rows[name]
        said = (one.run, one.attempt, one.policy, one.action, one.step, one.reason, one.mode)
        assert said == tuple(row[key] for key in ("run", "attempt", "policy", "action", "step", "reason", "mode"))
        assert json.loads(row["params"]) == one.params


def check_what_is_known_in_advance(rows, runs):
    prunes = [row for row in rows.values() if row["action"] == "prune"]
    last = 5 * (DESCENT + PATIENCE)
    assert {row["step"] for row in prunes} == {last}
    assert {row["run"] for row in prunes if row["status"] == "applied"} == {one["run"] for one in runs if one["pruned"]}
    assert len(prunes) == len({row["run"] for row in prunes}) >= PRUNES  # one that ended by itself just then has refused its own
    scaled = sorted(row["step"] for row in rows.values() if row["run"] == "steered" and row["policy"] == "plateau")
    evaluations = next(one["logged"] for one in runs if one["run"] == "steered") // 5
    assert scaled == [5 * n for n in range(11, evaluations + 1, 10)]  # best at 1, ten without a better one, and so on


def check_the_jobs_side(rows, steered, pruned, promised):
    """Each decision is answered, and took effect once or not at all."""
    unanswered = {row["id"]: (row["run"], row["action"], row["status"]) for row in rows.values() if row["status"] == "pending"}
    assert not unanswered
    told = [one for job in (steered, *pruned) for one in job.lines("decisions")]
    assert {name: times for name, times in Counter(one["id"] for one in told).items() if times > 1} == {}
    applied = {one["id"] for one in told if one["status"] == "applied"}
    assert applied == {name for name, row in rows.items() if row["status"] == "applied"}
    assert {rows[name]["policy"] for name in applied} == {"patience", "plateau", "person"}
    assert {(rows[name]["run"], rows[name]["status"]) for name in promised} == {("steered", "applied")}
    assert len(steered.lines("checkpoints")) == len(promised)
    rate = 0.5
    for one in steered.lines("decisions"):
        if one["action"] == "scale-lr" and one["status"] == "applied":
            assert one["before"] == rate
            rate *= 0.95
            assert abs(one["after"] - rate) < 1e-12
            rate = one["after"]
    assert rate < 0.5


def test_twenty_kills_of_jobs_lose_nothing_that_log_had_taken(place, until):
    daemon = place.daemon().ready()
    chance, jobs = random.Random(5), []
    for wave in range(4):
        several = [place.job(f"job{wave}-{i}", pause_s=0.001) for i in range(5)]
        for job in several:
            job.reaches(chance.randint(1, 300)).kill()
        jobs += several
    until(lambda: daemon.ask()["jobs"] == 0, told=lambda: daemon.ask()["counters"])
    until(lambda: len(place.runs()) == 20 and set(place.states().values()) == {("failed", "died")}, told=place.states)
    assert daemon.stop() == 0
    for job in jobs:
        place.whole(job.name, job.logged, exact=False)
    assert not list(place.spools.glob("*.spool"))
