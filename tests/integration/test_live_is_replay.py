"""Live and replayed, the verdicts are the same: a real daemon that is fed real curves through the SDK in one order, and
`smart-tuner replay` over what it stored.

The curves are an excerpt of the public MLCommons AlgoPerf result logs (mlcommons/submissions_algorithms, Apache-2.0), kept in
tests/unit/consumers/policies/curves.csv.
"""

import csv
import json
import pathlib

import pytest
import smarttuner
from workplace import Workplace, until

CURVES = pathlib.Path(__file__).parents[1] / "unit" / "consumers" / "policies" / "curves.csv"
CONFIGURATION = """
policies: {default: act, patience: {patience: 4, min_delta: 0, restore_best_weights: false}, median: act}
limits: {decisions_per_hour: 100000}
store: {publish_s: 0.2}
"""
EVALUATIONS = 30
IDLE_LOOKS = 5

pytestmark = pytest.mark.timeout(600)


def evaluations(group):
    """(step, trial, value) of the group's first evaluations in the order of their steps, and the goal."""
    with CURVES.open() as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == group]
    trials = {}
    for row in rows:
        trials.setdefault(row["trial"], []).append((int(row["step"]), row["trial"], float(row["value"])))
    return sorted(one for points in trials.values() for one in points[:EVALUATIONS]), (
        "max" if rows[0]["higher_is_better"] == "True" else "min"
    )


class Live:
    """A daemon, and the runs of one group in this process, which log one at a time: the next point is logged when the daemon
    has judged the one before, and what it decided has reached its run."""

    def __init__(self, place, group, goal):
        self.place, self.group, self.goal = place, group, goal
        self.daemon = place.daemon().ready()
        self.runs, self.logged = {}, {}

    def start(self, names):
        for name in names:
            self.runs[name] = smarttuner.attach(name, monitor="score", goal=self.goal, group=self.group)
            self.logged[name] = 0
        self.quiet()

    def known(self, name):
        """What the daemon says of a run; None while it does not know it, or does not answer."""
        answer = self.daemon.ask("runs")
        return next((one for one in answer["runs"] if one["run"] == name), None) if answer else None

    def judged(self):
        """How many records the judge has folded, and told what followed, in this life of the daemon."""
        answer = self.daemon.ask()
        return answer and next(lane["records"] for lane in answer["lanes"] if lane["name"] == "judge")

    def quiet(self):
        """Waits until the judge has nothing to fold any more."""
        seen = []

        def idle():
            seen.append(self.judged())
            last = seen[-IDLE_LOOKS:]
            return len(last) == IDLE_LOOKS and None not in last and len(set(last)) == 1

        until(idle, every_s=0.05, told=self.place.said)

    def log(self, name, step, value, before_it_is_judged=None):
        run, before = self.runs[name], self.judged()
        run.log({"score": value}, step=step)
        self.logged[name] += 1
        if before_it_is_judged is not None:
            before_it_is_judged()
        until(lambda: self.points(name) >= self.logged[name], told=self.place.said)
        if before_it_is_judged is None:
            until(lambda: self.judged() > before, told=self.place.said)
        else:
            self.quiet()
        run.step()
        if run.should_stop:
            self.end(name)

    def points(self, name):
        known = self.known(name)
        return known["series"].get("score", {"points": 0})["points"] if known else 0

    def end(self, name):
        self.runs.pop(name).finish()
        until(lambda: self.known(name)["state"] != "running", told=self.place.said)
        self.quiet()

    def dies_and_comes_back(self):
        """The point in hand is in its run's spool, and may have been judged or not."""
        self.daemon.kill()
        self.daemon = self.place.daemon().ready()

        def served():
            for run in self.runs.values():
                run.step()
            return self.daemon.ask()["jobs"] == len(self.runs)

        until(served, told=self.place.said)


@pytest.fixture
def place(tmp_path, monkeypatch):
    one = Workplace(tmp_path / "place")
    one.config.write_text(CONFIGURATION)
    for name in ("SMART_TUNER_DATA_DIR", "XDG_STATE_HOME", "HOME"):
        monkeypatch.setenv(name, one.environment[name])
    for name in ("SMART_TUNER_MODE", "SMART_TUNER_RUN", "SMART_TUNER_BUS", "SMART_TUNER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    yield one
    one.shut()


def replayed(place):
    done = place.cli("--config", place.config, "replay", "-p", "configured", "--runs", "--json")
    assert done.returncode == 0, done.stderr
    return {line["run"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize(
    ("group", "kills"),
    [("ogbg_jax", ()), ("librispeech_conformer_jax", (("trial_2", 15_000), ("trial_4", 30_948)))],
    ids=["max", "min-and-killed-also-at-a-verdict"],
)
def test_a_live_daemon_and_replay_over_what_it_stored_give_the_same_verdicts(place, group, kills):
    points, goal = evaluations(group)
    live, kills = Live(place, group, goal), list(kills)
    live.start(sorted({trial for _, trial, _ in points}))
    names = set(live.runs)
    for step, trial, value in points:
        if trial in live.runs:
            dies = bool(kills) and trial == kills[0][0] and step >= kills[0][1]
            live.log(trial, step, value, live.dies_and_comes_back if dies else None)
            del kills[: int(dies)]
    assert not kills
    for name in list(live.runs):
        live.end(name)
    assert live.daemon.stop() == 0

    rows = place.decisions(action="prune", status="applied")
    verdicts = {row["run"]: (row["step"], row["id"], row["policy"], row["reason"]) for row in rows}
    assert len(verdicts) == len(rows) >= 2
    found = replayed(place)
    assert set(found) == names
    told = {run: (one["stopped_at"], one["decision"], one["stopped_by"], one["reason"]) for run, one in found.items()}
    assert {run: verdict for run, verdict in told.items() if verdict[0] is not None} == verdicts
    assert sum(one["decisions"] for one in found.values()) == len(place.decisions()), "and no other, nor refused"
    stored = place.metrics().groupby("run")["step"].count().to_dict()
    assert stored == live.logged, "a run logged on behind its end"
    assert {one["steps_saved"] for one in found.values()} == {0}


def test_hindsight_on_what_a_daemon_only_concluded_is_what_replay_says(place):
    """One run, so that nothing depends on what its peers had shown when it was judged."""
    place.config.write_text("policies: {patience: {patience: 4, min_delta: 0, restore_best_weights: false, mode: observe}}\n")
    points, goal = evaluations("ogbg_jax")
    live = Live(place, None, goal)
    live.start(["watched"])
    for step, trial, value in points:
        if trial == "trial_3":
            live.log("watched", step, value)  # each in a record of its own: behind the record that ended it a run is over
    assert set(live.runs) == {"watched"}, "nothing ended it"
    live.end("watched")

    def looked_back_on():
        rows = [json.loads(line) for line in place.cli("decisions", "--would", "--json").stdout.splitlines()]
        return next((row for row in rows if row["hindsight"] is not None), None)

    row = until(looked_back_on, every_s=0.5, told=place.said)
    one = replayed(place)["watched"]
    assert (row["id"], row["step"]) == (one["decision"], one["stopped_at"])
    seen = row["hindsight"]
    for name in ("best_before", "best_after", "best_step", "steps", "steps_saved"):
        assert seen[name] == one[name], name
    assert 0 < seen["lost"] == pytest.approx(1 - seen["best_before"] / seen["best_after"])
    done = place.cli("--config", place.config, "decisions", "--would", "--summary", "--json")
    line = json.loads(done.stdout)
    assert (line["policy"], line["runs"], line["ended"], line["right"]) == ("patience", 1, 1, int(seen["lost"] <= 0.01))
    assert line["steps_saved"] == seen["steps_saved"]
    options = "patience: 4, min_delta: 0, restore_best_weights: false"
    assert line["turn_on"] == [{"text": f"policies: {{patience: {{mode: act, options: {{{options}}}}}}}", "where": ""}]
