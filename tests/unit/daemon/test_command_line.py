"""The command line as a person types it: options before and after a command, errors with a hint, exit codes."""

import json

import pytest
from smarttuner.daemon.cli.main import run


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    for name in ("SMART_TUNER_DATA_DIR", "SMART_TUNER_BUS", "SMART_TUNER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_bus_of_the_file_holds_where_none_was_given(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("bus: {url: 'kafka://broker:9092'}")
    assert run(["daemon", "--config", str(file), "--data-dir", str(tmp_path / "data")]) == 3
    assert "kafka://broker:9092 is not supported" in capsys.readouterr().err


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
