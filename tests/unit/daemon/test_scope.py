"""Who is judged by what: the entries of `watch`, what a job says itself, and the limits of both."""

import pytest
from smarttuner.core.events import Started
from smarttuner.core.run import RunRecord
from smarttuner.daemon.config import load
from smarttuner.daemon.rule_book import RuleBook

SEEN = {"name": "bert/base-1", "user": "ann", "group": "sweep7", "tags": {"team": "speech", "gpu": 4, "new": True}}


def book(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return RuleBook(load(file, {}).config)


def record(name="r", user="", group=None, attempt="a", **said):
    return RunRecord(name, attempt, group, said=Started(user=user, sdk="smart-tuner 1", **said))


def modes(scope):
    return {one.policy.name: one.mode for one in scope.rules}


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ("{}", True),
        ("{name: 'bert/*'}", True),
        ("{name: 'bert/base-[12]'}", True),
        ("{name: bert}", False),
        ("{name: ['gpt*', 'bert*']}", True),
        ("{name: 'BERT*'}", False),
        ("{user: ann}", True),
        ("{user: [bob, carol]}", False),
        ("{group: 'sweep*'}", True),
        ("{group: sweep}", False),
        ("{source: sdk}", True),
        ("{source: logs}", False),
        ("{tags: {team: 'sp*'}}", True),
        ("{tags: {team: vision}}", False),
        ("{tags: {team: '*', gpu: 4, new: true}}", True),
        ("{tags: {site: '*'}}", False),
        ("{name: 'bert*', user: bob}", False),
        ("{name: 'bert*', user: ann, group: '*', tags: {team: speech}, source: 's?k'}", True),
    ],
)
def test_a_match_is_looked_at_key_by_key(tmp_path, match, fits):
    found = book(tmp_path, f"watch: [{{match: {match}, monitor: mine}}]")(record(**SEEN))
    assert (found.monitor == "mine") is fits


def test_a_run_without_a_group_or_a_user_fits_no_pattern_of_them(tmp_path):
    text = "watch: [{match: {group: '*'}, monitor: a}, {match: {user: '*'}, monitor: b}, {match: {source: '*'}, monitor: c}]"
    assert book(tmp_path, text)(RunRecord("r", "a")).monitor == "val_loss"


def test_the_first_entry_that_fits_holds(tmp_path):
    rules = book(tmp_path, "watch: [{match: {user: bob}, monitor: a}, {match: {name: 'r*'}, monitor: b}, {monitor: c}]")
    assert [rules(record("r", "bob")).monitor, rules(record("r", "ann")).monitor, rules(record("x", "ann")).monitor] == [
        "a",
        "b",
        "c",
    ]


def test_an_entry_has_its_own_series_and_direction(tmp_path):
    rules = book(
        tmp_path,
        """
monitoring: {metrics: {primary: wer}}
early_stopping: {strategies: {patience_based: {mode: min}}}
watch:
  - {match: {name: "acc*"}, monitor: accuracy, goal: max}
  - {match: {name: "dir*"}, goal: max}
""",
    )
    found = {name: (one.monitor, one.goal) for name in ("acc", "dir", "else") for one in [rules(record(name))]}
    assert found == {"acc": ("accuracy", "max"), "dir": ("wer", "max"), "else": ("wer", "min")}
    own = rules(record("acc", monitor="f1", goal="min"))
    assert (own.monitor, own.goal) == ("f1", "min")


def test_the_policies_of_an_entry_take_the_place_of_the_files(tmp_path):
    rules = book(
        tmp_path,
        """
early_stopping:
  strategies: {patience_based: {patience: 6}, plateau_detection: {}}
  quality_gates: {min_score: 1}
policies: {improvement: {mode: observe}}
watch:
  - {match: {name: "a*"}, monitor: x}
  - {match: {name: "b*"}, policies: {patience: {patience: 3}, divergence: off}}
  - {match: {name: "c*"}, early_stopping: {strategies: {patience_based: {patience: 4}}}, policies: {patience: observe}}
  - {match: {name: "d*"}, policies: {stuck: {when: "patience(patience=2) & ~divergence", then: alert}, default: act}}
""",
    )
    files = {"patience": "act", "plateau": "act", "improvement": "observe", "quality_gate.min_score": "act"}
    assert files.items() <= modes(rules(record("a"))).items()
    assert modes(rules(record("a"))) == modes(rules(record("z")))
    b, c, d = (rules(record(name)) for name in "bcd")
    assert {name: mode for name, mode in modes(b).items() if name in files | {"divergence": ""}} == {"patience": "act"}
    assert next(one.policy.patience for one in b.rules if one.policy.name == "patience") == 3
    assert next((one.policy.patience, one.mode) for one in c.rules if one.policy.name == "patience") == (4, "observe")
    assert modes(d) | {"stuck": "act", "divergence": "act"} == modes(d)
    assert "patience" not in modes(d)


@pytest.mark.parametrize("shipped", ["observe", "act"])
def test_a_run_that_nobody_named_has_the_shipped_set_in_its_default_mode(tmp_path, shipped):
    text = f"policies: {{default: {shipped}}}\nwatch: [{{match: {{name: a}}, policies: {{}}}}]"
    for name in ("a", "z"):
        found = modes(book(tmp_path, text)(record(name)))
        assert found["divergence"] == shipped
        assert set(found.values()) == {shipped}


@pytest.mark.parametrize(
    ("policy", "entry", "limit", "effective"),
    [
        ("act", None, None, "act"),
        ("act", "act", "act", "act"),
        ("act", "observe", None, "observe"),
        ("act", None, "observe", "observe"),
        ("observe", "act", "act", "observe"),
    ],
)
@pytest.mark.parametrize("where", ["entry", "file"])
def test_the_strictest_mode_holds(tmp_path, policy, entry, limit, effective, where):
    stated = f"policies: {{patience: {policy}}}" + (f", mode: {entry}" if entry else "")
    limits = f"limits: {{mode: {limit}}}" if limit else ""
    text = f"watch: [{{{stated}{', ' + limits if limits and where == 'entry' else ''}}}]"
    rules = book(tmp_path, f"{text}\n{limits if where == 'file' else ''}")
    assert modes(rules(record()))["patience"] == effective
    job = rules(record(policies={"improvement": {}}))
    assert modes(job)["improvement"] == ("observe" if "observe" in (entry, limit) else "act")


def test_a_run_whose_entry_is_off_is_not_judged_and_says_why(tmp_path):
    rules = book(tmp_path, "watch: [{match: {name: 'tmp*'}, mode: off}]")
    off = rules(record("tmp1", policies={"patience": {}}))
    assert (list(off.rules), off.why_none) == ([], "watch[0] says mode: off")
    assert rules(record("r")).rules
    shipped = ", ".join(f"{name}: off" for name in modes(rules(record())))
    nothing = book(tmp_path, f"watch: [{{policies: {{{shipped}}}}}]")(record())
    assert (list(nothing.rules), nothing.why_none) == ([], "watch[0] turns every policy off")


def stated(found):
    return {
        one.policy.name: getattr(one.policy, "patience", None) for one in found.rules if one.policy.name in ("patience", "plateau")
    }


LIMITED = [
    ("{}", {"patience": 9, "plateau": 10}, "f1"),
    ("{job_policies: true, job_monitor: true}", {"patience": 9, "plateau": 10}, "f1"),
    ("{job_policies: false}", {"patience": 3}, "f1"),
    ("{job_policies: [plateau]}", {"patience": 3, "plateau": 10}, "f1"),
    ("{job_monitor: false}", {"patience": 9, "plateau": 10}, "val_loss"),
]


@pytest.mark.parametrize(("limits", "policies", "monitor"), LIMITED)
def test_what_a_job_says_holds_within_the_limits_of_its_entry(tmp_path, limits, policies, monitor):
    rules = book(tmp_path, f"watch: [{{match: {{name: r}}, policies: {{patience: {{patience: 3}}}}, limits: {limits}}}]")
    job = {"policies": {"patience": {"patience": 9}, "plateau": {}}, "monitor": "f1", "goal": "max"}
    found = rules(record(**job))
    assert (stated(found), found.monitor, found.goal) == (policies, monitor, "max" if monitor == "f1" else "min")
    assert stated(rules(record("else", **job))) == {"patience": 9, "plateau": 10}


@pytest.mark.parametrize(("limits", "policies", "monitor"), LIMITED)
def test_what_a_job_says_holds_within_the_limits_of_the_file(tmp_path, limits, policies, monitor):
    free = "{match: {name: free}, limits: {job_policies: true, job_monitor: true}}"
    text = f"limits: {limits}\nwatch: [{free}, {{match: {{name: own}}, limits: {{mode: observe}}}}]"
    rules = book(tmp_path, f"policies: {{patience: {{patience: 3}}}}\n{text}")
    job = {"policies": {"patience": {"patience": 9}, "plateau": {}}, "monitor": "f1", "goal": "max"}
    for name in ("r", "own"):
        found = rules(record(name, **job))
        assert (stated(found), found.monitor) == (policies, monitor)
    assert stated(rules(record("free", **job))) == {"patience": 9, "plateau": 10}
    assert set(modes(rules(record("own", **job))).values()) == {"observe"}


def test_what_is_refused_of_a_jobs_words_is_counted_once_an_attempt(tmp_path):
    rules = book(tmp_path, "limits: {job_policies: false, job_monitor: false}")
    for attempt in ("a", "a", "b"):
        rules(record(attempt=attempt, policies={"patience": {}}, monitor="f1"))
    assert rules._counters == {"policies_refused": 2}
