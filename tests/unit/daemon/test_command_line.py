"""The command line as a person types it: options before and after a command, errors with a hint, exit codes."""

import json
import shlex

import pytest
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record
from smarttuner.daemon.cli.main import run
from smarttuner.trainer import calm


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    for name in ("SMART_TUNER_DATA_DIR", "SMART_TUNER_BUS", "SMART_TUNER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_bus_of_the_file_holds_where_none_was_given(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("bus: {url: 'kafka://127.0.0.1:1'}")
    assert run(["daemon", "--config", str(file), "--data-dir", str(tmp_path / "data")]) == 4
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_status_without_a_daemon_says_how_to_start_one(tmp_path, capsys):
    assert run(["status", "--data-dir", str(tmp_path)]) == 4
    said = capsys.readouterr().err
    assert said.startswith("smart-tuner: no daemon")
    assert "hint: start one: smart-tuner daemon" in said


def test_options_before_the_command_hold_for_it(tmp_path, capsys):
    assert run(["--data-dir", str(tmp_path / "there"), "status", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["data_dir"] == str(tmp_path / "there")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["prun"], "did you mean prune?"),
        (["set-lr"], "wants a number"),
        (["set-lr", "-1"], "above 0"),
        (["scale-lr", "nan"], "above 0"),
        (["restore", "yesterday"], "best, last or a step"),
        (["checkpoint", "7"], "takes no value"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused_at_the_door(tmp_path, capsys, typed, said):
    assert run(["decide", "--data-dir", str(tmp_path), "r", typed[0], "--", *typed[1:]]) == 2
    assert said in capsys.readouterr().err


def test_a_decision_without_a_daemon_is_unreachable(tmp_path):
    assert run(["decide", "r", "prune", "--data-dir", str(tmp_path)]) == 4


def test_an_unknown_command_is_a_usage_error():
    assert run(["fly"]) == 2


def test_a_broken_configuration_is_said_with_its_line(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("limits:\n  decisions_per_hour: six\n")
    assert run(["daemon", "--config", str(file), "--data-dir", str(tmp_path / "data")]) == 3
    said = capsys.readouterr().err
    assert f'smart-tuner: {file}:2: limits.decisions_per_hour: "six" is not a whole number' in said
    assert "hint: write decisions_per_hour: 6" in said


def test_doctor_finds_nothing_wrong_where_nothing_is(tmp_path, capsys):
    assert run(["doctor", "--json", "--data-dir", str(tmp_path / "none")]) == 0
    assert {json.loads(line)["level"] for line in capsys.readouterr().out.splitlines()} <= {"ok", "info"}


@pytest.mark.parametrize("compiled", [False, True])
def test_doctor_says_where_nothing_is_compiled(compiled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calm, "hooks", object() if compiled else None)
    assert run(["doctor", "--data-dir", str(tmp_path / "none")]) == 0
    assert ("hint: install a C compiler" in capsys.readouterr().out) == (not compiled)


def test_a_data_directory_that_cannot_be_made_is_said_and_not_raised(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["daemon", "--data-dir", str(tmp_path / "file" / "data")]) == 1
    said = capsys.readouterr().err
    assert f"smart-tuner: {tmp_path}/file/data: Not a directory" in said
    assert "hint: look at the path" in said


def test_what_doctor_says_to_type_can_be_pasted(tmp_path, capsys):
    folder = tmp_path / "my data"
    folder.mkdir()
    run(["doctor", "--json", "--data-dir", str(folder)])
    hints = [json.loads(line)["hint"] for line in capsys.readouterr().out.splitlines()]
    assert ["smart-tuner", "daemon", "--data-dir", str(folder)] in [shlex.split(hint) for hint in hints]


@pytest.fixture
def stored(tmp_path):
    """A data directory in which a run was stored, without a daemon."""
    folder = tmp_path / "stored"
    store = MetricsStore(str(folder), ManualClock())
    said = Started(user="ann", monitor="val_loss", goal="min")
    series = [Series("val_loss", [1, 2, 3], [3.0, 2.0, "NaN"], [1.7e9, 1.7e9 + 1, 1.7e9 + 2]), Series("lr", [1], [0.1], [1.7e9])]
    decision = Decision("d1", "mine", "A", "prune", "patience", "sdk:2", "no better", 1.7e9, 1.7e9 + 600, step=2, status="would")
    bodies = [
        (RUNS, RunEvent("mine", "A", "started", 1.7e9, 0, started=said)),
        (METRICS, MetricChunk("mine", "A", "sdk", 1, series)),
        (CONTROL, decision),
        (RUNS, RunEvent("mine", "A", "ended", 1.7e9 + 3, 9, state="finished")),
    ]
    store.handle([Record(topic, 0, i, "mine", encode(body), 1.7e9 + i) for i, (topic, body) in enumerate(bodies)], 1.7e9 + 9)
    store.flush(1.7e9 + 9)
    return str(folder)


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_runs_tell_state_last_points_and_judge(stored, capsys):
    assert run(["runs", "--json", "--data-dir", stored]) == 0
    (row,) = lines(capsys)
    assert (row["run"], row["state"], row["user"], row["judged_by"]) == ("mine", "finished", "ann", "val_loss min")
    assert row["series"]["val_loss"] == {"step": 3, "value": "NaN", "time": "2023-11-14T22:13:22.000000Z"}
    assert row["last_metric"] == "2023-11-14T22:13:22.000000Z"


@pytest.mark.parametrize("how", ["file", "environment", "url", "relative"])
def test_what_is_stored_elsewhere_is_read_from_any_data_directory(stored, tmp_path, capsys, monkeypatch, how):
    """The configuration of a host whose daemon keeps its store with others."""
    place, options = tmp_path / "host", []
    place.mkdir()
    if how == "environment":
        monkeypatch.setenv("SMART_TUNER__STORE__URL", stored)
    elif how == "url":
        place = f"file://{stored}"
    else:
        file = tmp_path / "c.yaml"
        file.write_text(f"store: {{url: '{stored if how == 'file' else '../stored'}'}}")
        options = ["--config", str(file)]
    for command in (["runs"], ["metrics", "mine"], ["decisions", "mine"]):
        assert run([*options, "--data-dir", str(place), *command, "--json"]) == 0
        assert lines(capsys), command


def test_metrics_of_a_run_as_rows_of_one_series(stored, capsys):
    assert run(["metrics", "mine", "val_loss", "--last", "2", "--json", "--data-dir", stored]) == 0
    assert [(row["step"], row["value"]) for row in lines(capsys)] == [(2, 2.0), (3, "NaN")]
    assert run(["metrics", "mine", "--csv", "--data-dir", stored]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "time,run,attempt,series,step,value,source,seq,partition,offset"
    assert len(out) == 5


def test_decisions_tell_what_would_have_been_done(stored, capsys):
    assert run(["decisions", "mine", "--would", "--json", "--data-dir", stored]) == 0
    (row,) = lines(capsys)
    assert (row["action"], row["status"], row["reason"], row["evidence"]) == ("prune", "would", "no better", {})


@pytest.mark.parametrize(
    ("typed", "code", "hint"),
    [
        (["metrics", "mime"], 1, "did you mean mine?"),
        (["runs", "mime"], 1, "did you mean mine?"),
        (["decisions", "mime"], 1, "did you mean mine?"),
        (["metrics", "mine", "val_los"], 2, "did you mean val_loss?"),
    ],
)
def test_an_unknown_run_or_series_is_answered_with_the_nearest(stored, capsys, typed, code, hint):
    assert run([*typed, "--data-dir", stored]) == code
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("command", ["runs", "decisions"])
def test_an_empty_store_says_so_and_is_no_error(tmp_path, capsys, command):
    assert run([command, "--data-dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "yet" in said.err
