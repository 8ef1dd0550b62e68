"""Who is judged by what, through the command line: a daemon with a list `watch`, jobs of the SDK that fall under its entries, a
SIGKILL of the daemon before they stand still, another one after it was decided, and a reload at last."""

import getpass
import json
import signal

import pytest

pytestmark = pytest.mark.timeout(600)

CONFIG = """\
watch:
  - match: {name: "off-*"}
    mode: off
  - match: {tags: {team: "sp*"}}
    monitor: score
    goal: min
    policies: {patience: {patience: 5}}
    limits: {job_policies: false, job_monitor: false}
  - match: {group: "sweep*"}
    policies:
      stuck: {when: "patience(patience=4) & ~divergence", then: prune}
  - match: {user: USER, name: "mine-*"}
    mode: MODE
    policies: {patience: {patience: 6}}
  - match: {source: elsewhere}
    mode: off
policies: {default: observe}
store: {publish_s: 0.2}
limits: {decisions_per_hour: 100000}
"""
JOBS = {
    "off-1": {"series": "val_loss"},
    "talk": {
        "series": "score",
        "attach": {"tags": {"team": "speech"}, "monitor": "val_loss", "goal": "max", "policies": {"improvement": {}}},
    },
    "swept": {"series": "eval_loss", "attach": {"group": "sweep1"}},
    "swept-2": {"series": "lr", "attach": {"group": "sweep1"}},
    "mine-1": {"series": "val/loss"},
    "nobodys": {"series": "validation/loss", "then": float("nan")},
    "own": {"series": "f1", "attach": {"monitor": "f1", "goal": "min", "policies": {"patience": {"patience": 7}}}},
    "quiet": {"series": "val-loss"},
}


class Scoped:
    """The story, told once for all tests of this file."""

    def __init__(self, place, until):
        self.place, self.until = place, until
        self.write("observe")
        self.daemon = place.daemon().ready()
        self.jobs = {name: place.job(name, "scoped_job.py", **options) for name, options in JOBS.items()}
        until(lambda: all(self.points(name) for name in JOBS), told=place.said)
        self.before = self.told(("off-1", "talk", "swept", "mine-1", "own"))
        self.daemon.kill()
        self.daemon = place.daemon().ready()
        until(lambda: all(self.points(name) for name in JOBS), told=place.said)
        self.after = self.told(("talk",))
        self.counted = self.daemon.counter("policies_refused")
        for job in self.jobs.values():
            (job.folder / "still").touch()
        pruned = {"talk", "swept", "mine-1", "nobodys", "own"}
        until(lambda: pruned <= {one["run"] for one in self.decided()}, told=lambda: str(self.decided()))
        for name in ("talk", "swept", "own"):
            assert self.jobs[name].ended() == 0
        self.daemon.kill()
        self.daemon = place.daemon().ready()
        self.write("act")
        self.daemon.send(signal.SIGHUP)
        assert self.jobs["mine-1"].ended() == 0, place.said()
        for name in ("off-1", "swept-2", "nobodys", "quiet"):
            self.jobs[name].tell_to_end()
            assert self.jobs[name].ended() == 0
        until(lambda: all(state != "running" for state, _ in place.states().values()) and len(place.states()) == len(JOBS))
        until(lambda: all(one["status"] != "pending" for one in place.decisions()))
        self.rows = place.decisions()

    def write(self, mode):
        self.place.config.write_text(CONFIG.replace("USER", getpass.getuser()).replace("MODE", mode))

    def points(self, name):
        return next((row["series"].get("x") for row in self.daemon.ask("runs")["runs"] if row["run"] == name), None)

    def told(self, names):
        """What `runs` says of each run, and `config explain` of these."""
        rows = [json.loads(line) for line in self.place.cli("runs", "--json").stdout.splitlines()]
        explained = {name: json.loads(self.place.cli("config", "explain", name, "--json").stdout) for name in names}
        return {row["run"]: (row["judged_by"], row["not_judged"]) for row in rows}, explained

    def decided(self):
        try:
            return [one for one in self.place.decisions() if one["action"] == "prune"]
        except FileNotFoundError:
            return []

    def of(self, run):
        return [(one["policy"], one["action"], one["status"], one["mode"]) for one in self.rows if one["run"] == run]


@pytest.fixture(scope="module")
def scoped(tmp_path_factory, workplace, until):
    place = workplace(tmp_path_factory.mktemp("scoped") / "place")
    try:
        yield Scoped(place, until)
    finally:
        place.shut()


def test_runs_tell_by_what_each_is_judged_or_why_not_before_a_kill_and_after(scoped):
    for rows, _ in (scoped.before, scoped.after):
        assert rows == {
            "off-1": (None, "watch[0] says mode: off"),
            "talk": ("score min", None),
            "swept": ("eval_loss min", None),
            "swept-2": (None, "no point of val_loss yet; it logs lr, x"),
            "mine-1": ("val/loss min", None),
            "nobodys": ("validation/loss min", None),
            "own": ("f1 min", None),
            "quiet": (
                None,
                "no point of val_loss yet; it logs val-loss, x; is it val-loss? Then put that under monitoring.aliases.val_loss",
            ),
        }


def test_a_live_run_is_explained_by_the_daemon_with_entry_and_line(scoped):
    file, explained = scoped.place.config, scoped.before[1]
    entries = {name: one["entry"]["index"] for name, one in explained.items()}
    assert entries == {"off-1": 0, "talk": 1, "swept": 2, "mine-1": 3, "own": None}
    talk = explained["talk"]
    assert talk["monitor"] == {"value": "score", "from": f"{file}:5", "logged_as": "score"}
    assert talk["goal"]["from"] == f"{file}:6"
    assert len(talk["job"]["not_used"]) == 2
    patience = next(one for one in talk["policies"] if one["policy"] == "patience")
    assert (patience["from"], patience["mode"]) == (f"{file}:7", "act")
    mine = next(one for one in explained["mine-1"]["policies"] if one["policy"] == "patience")
    assert (mine["mode"], mine["mode_from"]) == ("observe", f"{file}:13")
    assert explained["swept"]["monitor"]["logged_as"] == "eval_loss"
    own = next(one for one in explained["own"]["policies"] if one["policy"] == "patience")
    assert (own["by"], own["options"]["patience"]) == ("the job", {"value": 7, "from": "the job"})
    assert scoped.after[1]["talk"] == talk


def test_a_run_that_is_off_is_never_decided_about(scoped):
    assert scoped.of("off-1") == scoped.of("quiet") == []


def test_the_entrys_policy_and_series_hold_and_what_the_job_may_not_state_does_not(scoped):
    assert ("patience", "prune", "applied", "act") in scoped.of("talk")
    assert "improvement" not in [policy for policy, *_ in scoped.of("talk")]
    assert scoped.counted == 1
    (said,) = scoped.jobs["talk"].lines("runs")
    assert said["why"].startswith("score no better than ")


def test_a_rule_of_conditions_ends_a_run_on_the_series_that_it_logs_under_an_alias(scoped):
    (decision,) = [one for one in scoped.rows if one["run"] == "swept" and one["policy"] == "stuck"]
    assert (decision["action"], decision["status"]) == ("prune", "applied")
    assert decision["reason"].startswith("eval_loss no better than ")
    assert decision["reason"].endswith("), and divergence does not hold")


def test_what_an_entry_only_observes_would_and_acts_when_a_reload_says_so(scoped):
    prunes = [one for one in scoped.of("mine-1") if one[1] == "prune"]
    assert prunes == [("patience", "prune", "would", "observe"), ("patience", "prune", "applied", "act")]


def test_a_run_that_nobody_named_has_the_shipped_set_which_observes(scoped):
    assert ("divergence", "prune", "would", "observe") in scoped.of("nobodys")
    assert {mode for *_, mode in scoped.of("nobodys")} == {"observe"}


def test_what_a_job_names_itself_acts_where_the_file_lets_it(scoped):
    assert [one for one in scoped.of("own") if one[1] == "prune"] == [("patience", "prune", "applied", "act")]


def test_no_decision_was_made_twice(scoped):
    ids = [one["id"] for one in scoped.rows]
    assert len(ids) == len(set(ids))
    for run, policy in {"talk": "patience", "swept": "stuck", "own": "patience", "nobodys": "divergence"}.items():
        assert len([one for one in scoped.of(run) if one[0] == policy and one[1] == "prune"]) == 1
