"""`config explain` and `judged_by`: each key with the line it comes from, and why a run is not judged."""

import json

import pytest
from smarttuner.consumers.attempt import Attempt
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.core.run import RunRecord
from smarttuner.core.standing import Standing
from smarttuner.daemon.cli.main import run
from smarttuner.daemon.config import load
from smarttuner.daemon.config_rules import gates
from smarttuner.daemon.explain import Explanation, lines
from smarttuner.daemon.judged import judged
from smarttuner.daemon.rule_book import RuleBook

FILE = """\
watch:
  - match: {name: "tmp-*"}
    mode: off
  - match: {user: [ann, bob]}
    monitor: val/acc
    goal: max
    mode: observe
    policies:
      patience:
        patience: 20
        options: {min_delta: 0.1}
      plateau: observe
      stuck:
        when: patience(patience=5) & ~divergence
    limits:
      job_policies: [patience]
      job_monitor: false
  - match: {user: eve}
    limits: {mode: observe}
early_stopping:
  strategies:
    patience_based:
      patience: 4
      mode: max
  quality_gates:
    max_acceptable_loss: 2.0
    wer:
      series: wer
      max: 0.5
policies:
  default: act
  patience:
    mode: observe
"""


@pytest.fixture
def told(tmp_path):
    def tell(text=FILE, environ=None, series=None, name="r", group=None, **said):
        file = tmp_path / "c.yaml"
        file.write_text(text)
        record = RunRecord(name, "a", group, said=Started(sdk="x", **said))
        plain = Explanation(load(file, environ or {}), record, series).plain()
        return json.loads(json.dumps(plain).replace(f"{file}:", ""))

    return tell


def policy(plain, name):
    (found,) = [one for one in plain["policies"] if one["policy"] == name]
    return found


def test_each_key_of_an_entry_is_told_with_its_line(told):
    plain = told(user="ann")
    assert plain["entry"] == {"name": "watch[1]", "index": 1, "from": "4"}
    assert plain["passed_over"] == [{"name": "watch[0]", "index": 0, "from": "2", "why": "its name is r, not tmp-*"}]
    assert plain["monitor"] == {"value": "val/acc", "from": "5", "logged_as": None}
    assert plain["goal"] == {"value": "max", "from": "6"}
    assert plain["mode"] == {"value": "observe", "from": "7"}
    patience = policy(plain, "patience")
    assert (patience["by"], patience["from"], patience["mode"], patience["mode_from"]) == ("file", "9", "observe", "7")
    assert patience["options"]["patience"] == {"value": 20, "from": "10"}
    assert patience["options"]["min_delta"] == {"value": 0.1, "from": "11"}
    assert patience["options"]["restore_best_weights"] == {"value": False, "from": "default"}
    assert (policy(plain, "plateau")["mode_from"], policy(plain, "plateau")["from"]) == ("12", "12")
    stuck = policy(plain, "stuck")
    assert stuck["options"]["when"] == {"value": "patience(patience=5) & ~divergence", "from": "14"}
    assert stuck["options"]["then"] == {"value": "prune", "from": "default"}
    assert policy(plain, "divergence")["by"] == "shipped"
    assert plain["limits"] == {
        "job_policies": {"value": ["patience"], "from": "16"},
        "job_monitor": {"value": False, "from": "17"},
        "mode": {"value": None, "from": "default"},
    }


def test_the_files_own_sections_are_the_last_entry(told):
    plain = told(user="zoe")
    assert plain["entry"] == {"name": "the file's own sections", "index": None, "from": None}
    assert [one["why"] for one in plain["passed_over"]] == [
        "its name is r, not tmp-*", "its user is zoe, not ann or bob", "its user is zoe, not eve",
    ]  # fmt: skip
    assert plain["goal"] == {"value": "max", "from": "24"}
    patience = policy(plain, "patience")
    assert (patience["mode"], patience["mode_from"]) == ("observe", "33")
    assert patience["options"]["patience"] == {"value": 4, "from": "23"}
    divergence = policy(plain, "divergence")
    assert (divergence["by"], divergence["mode"], divergence["mode_from"]) == ("shipped", "act", "31")
    gate = policy(plain, "quality_gate.max_acceptable_loss")
    assert (gate["from"], gate["options"]["max"]) == ("26", {"value": 2.0, "from": "26"})
    wer = policy(plain, "quality_gate.wer")
    assert (wer["series"], wer["options"]["max"]) == ("wer", {"value": 0.5, "from": "29"})


def test_what_the_job_states_is_told_and_what_of_it_is_not_used(told):
    job = {"monitor": "f1", "goal": "min", "policies": {"patience": {"patience": 9}, "plateau": {}}}
    plain = told(user="ann", **job)
    assert (plain["monitor"]["value"], policy(plain, "patience")["by"]) == ("val/acc", "the job")
    assert policy(plain, "patience")["options"]["patience"] == {"value": 9, "from": "the job"}
    assert [one.partition(":")[0] for one in plain["job"]["not_used"]] == ["plateau", "monitor and goal"]
    free = told(user="zoe", mode="observe", **job)
    assert free["monitor"] == {"value": "f1", "from": "the job", "instead_of": "val_loss", "logged_as": None}
    assert free["goal"] == {"value": "min", "from": "the job"}
    assert (policy(free, "plateau")["mode"], policy(free, "plateau")["mode_from"]) == ("observe", "the job")
    wrong = told(user="zoe", policies={"patiense": {}})
    assert "did you mean patience?" in wrong["job"]["not_used"][0]


def test_the_strictest_word_is_named(told):
    assert policy(told(user="eve"), "divergence")["mode_from"] == "19"
    assert policy(told(user="zoe"), "quality_gate.wer")["mode"] == "act"


def test_a_variable_is_named_where_it_set_the_key(told):
    plain = told(environ={"SMART_TUNER__MONITORING__METRICS__PRIMARY": "wer"})
    assert plain["monitor"]["value"] == "wer"
    assert plain["monitor"]["from"] == "SMART_TUNER__MONITORING__METRICS__PRIMARY"


def test_what_is_judged_is_told_where_the_series_are_known(told):
    plain = told(series=("eval_loss", "lr"))
    assert (plain["judged_by"], plain["monitor"]["logged_as"]) == ("eval_loss max", "eval_loss")
    assert told(name="tmp-1", series=())["not_judged"] == "watch[0] says mode: off"


def test_the_terminal_shows_key_value_and_line(told):
    text = list(lines(told(user="ann", series=("validation-acc",))))
    assert text[0] == "r: watch[1] (4)"
    assert text[1] == "  not watch[0] (2): its name is r, not tmp-*"
    assert ["monitor", "val/acc", "5"] in [line.split() for line in text]
    assert ["patience", "observe", "on", "val/acc", "9,", "mode:", "7"] in [line.split() for line in text]
    assert text[-1].startswith("  not judged: no point of val/acc yet; it logs validation-acc; is it validation-acc?")


def attempt(tmp_path, text, points, **said):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    config = load(file, {}).config
    one = Judge(RuleBook(config), gates(config))
    series = [Series(name, steps, [1.0] * len(steps), [100.0 + i for i in range(len(steps))]) for name, steps in points.items()]
    events = [(RUNS, RunEvent("r", "a", "started", 100.0, 0, started=Started(**said)))]
    events += [(METRICS, MetricChunk("r", "a", "sdk", 1, series))] if series else []
    one.handle([Record(topic, 0, i, "r", encode(event), 100.0) for i, (topic, event) in enumerate(events)], 101.0)
    return one.attempts["a"]


@pytest.mark.parametrize(
    ("text", "points", "said", "by", "why"),
    [
        ("{}", {"val_loss": [1, 2], "lr": [1]}, {}, "val_loss min", None),
        ("{}", {"eval_loss": [1, 2]}, {}, "eval_loss min", None),
        ("{}", {"f1": [1]}, {"monitor": "f1", "goal": "max"}, "f1 max", None),
        ("{}", {}, {}, None, "no point of val_loss yet; it logs no series yet"),
        ("{}", {"lr": [1], "reward": [1]}, {}, None, "no point of val_loss yet; it logs lr, reward"),
        (
            "{}",
            {"validation-loss": [1]},
            {},
            None,
            "no point of val_loss yet; it logs validation-loss; is it validation-loss? "
            "Then put that under monitoring.aliases.val_loss",
        ),
        ("{}", {name: [1] for name in "abcdefg"}, {}, None, "no point of val_loss yet; it logs a, b, c, d, e and 2 more"),
        ("watch: [{mode: off}]", {"val_loss": [1]}, {}, None, "watch[0] says mode: off"),
        (
            "{}",
            {"val_loss": [0, 0, 0, 0]},
            {},
            None,
            "the step of val_loss has not advanced past 0 in 4 points: log it with step=",
        ),
        ("policies: {divergence: off, extrapolation: off}", {"val_loss": [1]}, {}, None, "only stall watches it"),
        ("policies: {quality_gate: act, divergence: off, extrapolation: off}\nearly_stopping: {quality_gates: {min_x: 1}}",
            {"x": [1]}, {}, "x min", None),
    ],
)  # fmt: skip
def test_a_run_is_judged_by_a_series_or_it_is_said_why_not(tmp_path, text, points, said, by, why):
    assert judged(attempt(tmp_path, text, points, **said)) == (by, why)


def test_an_attempt_that_is_over_is_still_told_by_what_it_was_judged(tmp_path):
    one = attempt(tmp_path, "{}", {"eval_loss": [1, 2]})
    one.standing.record = RunRecord("r", "a", state="finished")
    one.settle()
    assert judged(one) == ("eval_loss min", None)
    assert judged(Attempt(Standing(RunRecord("r", "a", state="failed")), lambda record: [], "val_loss")).not_because


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path, monkeypatch):
    for name in ("SMART_TUNER_DATA_DIR", "SMART_TUNER_BUS", "SMART_TUNER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    folder, file = tmp_path / "stored", tmp_path / "c.yaml"
    file.write_text(FILE)
    store = MetricsStore(str(folder), ManualClock())
    said = Started(host="h", user="bob", tags={"team": "speech"})
    bodies = [
        (RUNS, RunEvent("mine", "A", "started", 1.7e9, 0, started=said)),
        (METRICS, MetricChunk("mine", "A", "sdk", 1, [Series("val_acc", [1, 2], [0.1, 0.2], [1.7e9, 1.7e9])])),
        (RUNS, RunEvent("mine", "A", "ended", 1.7e9 + 3, 9, state="finished")),
    ]
    store.handle([Record(topic, 0, i, "mine", encode(body), 1.7e9 + i) for i, (topic, body) in enumerate(bodies)], 1.7e9 + 9)
    store.flush(1.7e9 + 9)
    return ["--data-dir", str(folder), "--config", str(file)]


def test_a_stored_run_is_explained_without_a_daemon(stored, capsys):
    assert run([*stored, "config", "explain", "mine", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["entry"]["index"], plain["monitor"]["logged_as"], plain["judged_by"]) == (1, "val_acc", "val_acc max")
    assert "not stored" in plain["job"]["not_used"][-1]
    assert run(["config", "explain", "mime", *stored]) == 1
    assert "did you mean mine?" in capsys.readouterr().err


def test_runs_tell_by_what_a_forgotten_run_was_judged(stored, capsys):
    assert run([*stored, "runs", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["judged_by"], row["not_judged"]) == ("val_acc max", None)


def test_a_run_that_is_not_there_yet_is_explained_from_what_is_typed(stored, capsys):
    assert run([*stored, "config", "explain", "--name", "x", "--user", "ann", "--tag", "team=a", "--group", "g"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("x: watch[1] (")


@pytest.mark.parametrize(
    ("typed", "said"),
    [([], "which run?"), (["mine", "--name", "x"], "which run?"), (["--name", "x", "--tag", "team"], "KEY=VALUE")],
)
def test_a_question_that_makes_no_sense_is_a_usage_error(stored, capsys, typed, said):
    assert run([*stored, "config", "explain", *typed]) == 2
    assert said in capsys.readouterr().err
