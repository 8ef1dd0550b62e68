"""`decisions` in hindsight and `decisions --would --summary`, as a person types them; and that the line it prints turns it on."""

import json

import pytest
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record
from smarttuner.core.run import RunRecord
from smarttuner.daemon.cli.main import run
from smarttuner.daemon.config import load
from smarttuner.daemon.rule_book import RuleBook

NOW = 1.7e9


def fill(folder, policy="patience", runs=2, action="prune", values=(3.0, 1.0, 2.0, 1.5, 0.5), series=("val_loss",), **told):
    """Runs of one group that `policy` would have ended at step 3 of 5; the last of them goes on."""
    events = []
    for i in range(runs):
        name = f"r{i}"
        said = Started(user="ann", monitor="val_loss", goal="min", tags={"kind": "lm"})
        logged = series[i % len(series)]
        evidence = {"series": logged, "goal": "min", "step": 3, "value": values[2]}
        events += [
            (RUNS, RunEvent(name, name, "started", NOW, 0, group="g", started=said)),
            (
                METRICS,
                MetricChunk(name, name, "sdk", 1, [Series(logged, [1, 2, 3, 4, 5], list(values), [NOW] * 5)], group="g"),
            ),
            (CONTROL, Decision(f"d{i}", name, name, action, policy, "sdk:3", "flat", NOW, NOW, step=3, evidence=evidence, **told)),
        ]
        if i < runs - 1:
            events.append((RUNS, RunEvent(name, name, "ended", NOW + 3600, 9, group="g", state="finished")))
    store = MetricsStore(str(folder), ManualClock())
    store.handle([Record(topic, 0, i, "g", encode(body), NOW + i) for i, (topic, body) in enumerate(events)], NOW)
    store.flush(NOW)
    return folder


@pytest.fixture
def typed(tmp_path, capsys, monkeypatch):
    """Runs the command beside the configuration `text`; (stdout, stderr, exit code)."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("SMART_TUNER_CONFIG", raising=False)

    def type_in(*arguments, text="", folder=tmp_path / "store"):
        file = tmp_path / "c.yaml"
        file.write_text(text)
        code = run(["--config", str(file), "--data-dir", str(folder), "decisions", *arguments])
        said = capsys.readouterr()
        return said.out, said.err, code

    return type_in


def test_each_decision_tells_what_came_of_its_run(tmp_path, typed):
    fill(tmp_path / "store", status="would")
    ended, going = (json.loads(line) for line in typed("--json")[0].splitlines())
    assert (ended["hindsight"]["lost"], ended["hindsight"]["steps_saved"]) == (1.0, 2)
    assert ended["hindsight"]["group_lost"] == 0.0, "the run that goes on has the 0.5 too"
    assert going["hindsight"] is None
    out, _, _ = typed("--would", "r0")
    assert "1e+02 % of the best lost, 2 steps saved" not in out
    assert "100 % of the best lost, 2 steps saved" in out


def test_a_mate_under_a_name_of_your_own_list_counts_in_its_groups_best(tmp_path, typed):
    fill(tmp_path / "store", status="would", series=("val_loss", "my/loss"))

    def group_lost(text):
        out, err, _ = typed("--json", text=text)
        return json.loads(out.splitlines()[0])["hindsight"]["group_lost"], err

    assert group_lost("") == (1.0, "")
    assert group_lost("monitoring: {aliases: {val_loss: [my/loss]}}") == (0.0, "")
    lost, said = group_lost("monitoring: {aliases: 7}")
    assert lost == 1.0
    assert "the shipped names of series are used: " in said


def test_decisions_that_were_not_only_concluded_have_no_hindsight(tmp_path, typed):
    fill(tmp_path / "store", mode="act")
    assert [json.loads(line)["hindsight"] for line in typed("--json")[0].splitlines()] == [None, None]
    out, err, code = typed("--would", "--summary")
    assert (out, code) == ("", 0)
    assert "nothing has been decided" in err


def test_the_summary_as_json_is_an_object_a_policy(tmp_path, typed):
    fill(tmp_path / "store", policy="divergence", status="would", values=(3.0, 1.0, 9.0, 9.0, 9.0))
    out, _, code = typed("--would", "--summary", "--json")
    line = json.loads(out)
    assert code == 0
    assert (line["policy"], line["decisions"], line["runs"], line["ended"], line["right"]) == ("divergence", 2, 2, 1, 1)
    assert (line["steps_saved"], line["share_saved"], line["hours_saved"]) == (2, 0.4, 1.0)
    assert line["turn_on"] == [{"text": "policies: {divergence: {mode: act}}", "where": ""}]


def test_the_summary_for_people_says_what_it_cost_and_how_sure_that_is(tmp_path, typed):
    fill(tmp_path / "store", policy="divergence", status="would")
    out, _, _ = typed("--would", "--summary")
    assert out.splitlines() == [
        "divergence would have ended 2 runs (2 decisions)",
        "  right in 0 of 1 ended (95 %: 0 to 79 %): the best had come before, or at most 1 % of it was lost",
        "  saves 2 steps (40 % of these runs' steps), 1 hours",
        "  costs: a best worse by more than 1 % in 1 run and 0 of 1 groups; loss of a run's best: median 100 %, worst 100 %",
        "  caution: 1 ended so far: too few to rely on, 20 or more say something",
        "  to let it act, write policies: {divergence: {mode: act}}",
    ]


def test_runs_that_all_go_on_are_no_record_yet(tmp_path, typed):
    fill(tmp_path / "store", policy="divergence", runs=1, status="would")
    assert "none of them has ended yet" in typed("--would", "--summary")[0]


def test_what_is_followed_reads_no_points(tmp_path, typed, monkeypatch):
    fill(tmp_path / "store", status="would")

    def ctrl_c(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("smarttuner.daemon.cli.decisions.time.sleep", ctrl_c)
    monkeypatch.setattr("smarttuner.consumers.hindsight.read_each", None)
    out, _, code = typed("--follow", "--would", "--json")
    assert code == 130
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["d0", "d1"]


@pytest.mark.parametrize("arguments", [("--summary",), ("--would", "--summary", "--follow")])
def test_a_summary_is_of_what_would_have_been_done(tmp_path, typed, arguments):
    _, err, code = typed(*arguments)
    assert code == 2
    assert "write decisions --would --summary" in err


def test_an_empty_store_says_so(tmp_path, typed):
    out, err, code = typed("--would", "--summary", folder=tmp_path / "nothing")
    assert (out, code) == ("", 0)
    assert "nothing has been decided" in err


def test_a_configuration_that_cannot_be_read_costs_only_the_line(tmp_path, typed):
    fill(tmp_path / "store", status="would")
    out, _, code = typed("--would", "--summary", text="limits: {decisions_per_hour: six}")
    assert code == 0
    assert "smart-tuner config validate" in out


OBSERVED = [
    ("", "divergence"),
    ("", "extrapolation"),
    ("policies: {patience: {mode: observe, patience: 7}}", "patience"),
    ("policies: {patience: observe}\nearly_stopping: {strategies: {patience_based: {patience: 9}}}", "patience"),
    ('policies: {stuck: {when: "patience(patience=3) & ~divergence", then: alert, mode: observe}}', "stuck"),
    ("policies: {quality_gate: observe}\nearly_stopping: {quality_gates: {wer: {series: wer, max: 1}}}", "quality_gate.wer"),
]


def modes(tmp_path, text, policy):
    (tmp_path / "acting.yaml").write_text(text)
    book = RuleBook(load(tmp_path / "acting.yaml", {}).config)
    said = Started(user="ann", tags={"kind": "lm"}, sdk="x")
    return {rule.mode for rule in book(RunRecord("r0", "r0", "g", said=said)).rules if rule.policy.name == policy}


@pytest.mark.parametrize(("text", "policy"), OBSERVED)
def test_the_line_turns_the_policy_on_with_its_options(tmp_path, typed, text, policy):
    fill(tmp_path / "store", policy=policy, status="would")
    assert modes(tmp_path, text, policy) == {"observe"}
    (line,) = json.loads(typed("--would", "--summary", "--json", text=text)[0])["turn_on"]
    assert line["where"] == ""
    rest = "\n".join(one for one in text.splitlines() if not one.startswith("policies"))
    assert modes(tmp_path, f"{rest}\n{line['text']}\n", policy) == {"act"}
    if "patience: 7" in text:
        assert line["text"] == "policies: {patience: {mode: act, options: {patience: 7}}}"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("mode: observe, policies: {patience: act}", ["mode: act"]),
        ("policies: {patience: observe}", ["policies: {patience: {mode: act}}"]),
        ("policies: {patience: act}, limits: {mode: observe}", ["limits: {mode: act}"]),
    ],
)
def test_what_an_entry_of_watch_keeps_is_turned_on_there(tmp_path, typed, entry, told):
    fill(tmp_path / "store", status="would")
    text = f"watch: [{{match: {{name: other}}}}, {{match: {{user: ann, tags: {{kind: lm}}}}, {entry}}}]"
    assert modes(tmp_path, text, "patience") == {"observe"}
    found = json.loads(typed("--would", "--summary", "--json", text=text)[0])["turn_on"]
    assert found == [{"text": one, "where": "watch[1]"} for one in told]
    line = found[0]["text"]
    fixed = {key: part for part in (entry, line) for key, part in split(part)}
    acting = f"watch: [{{match: {{user: ann}}, {', '.join(fixed.values())}}}]"
    assert modes(tmp_path, acting, "patience") == {"act"}


def split(text):
    """The keys of a flow mapping of one level with their whole text."""
    depth, start = 0, 0
    for i, letter in enumerate(text + ","):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and not depth:
            part = text[start:i].strip()
            yield part.partition(":")[0], part
            start = i + 1


def test_what_the_configuration_lets_act_was_kept_by_the_job_or_a_pause(tmp_path, typed):
    fill(tmp_path / "store", status="would")
    for text in ("policies: {patience: act}", ""):
        assert json.loads(typed("--would", "--summary", "--json", text=text)[0])["turn_on"] == []
        assert "this configuration lets it act, or does not have it: a pause" in typed("--would", "--summary", text=text)[0]
