"""`smart-tuner replay` over tables, event files and stores, as a person runs it."""

import json

import numpy as np
import pandas as pd
import pytest
from smarttuner.consumers.aliases import Aliases
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.past_store import stored_trials
from smarttuner.consumers.past_trials import Asked
from smarttuner.consumers.reading import run_rows
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.daemon.cli.main import run

GOOD = [5.0, 4.0, 3.0, 2.0, 1.0, 1.0]
STUCK = [5.0, 4.5, 4.5, 4.5, 4.5, 4.5]


def table(goal="min", **more):
    sign = 1.0 if goal == "min" else -1.0
    rows = [
        {"group": "g", "trial": name, "step": 10 * (i + 1), "value": sign * value, "higher_is_better": goal == "max", **more}
        for name, values in (("good", GOOD), ("stuck", STUCK))
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def replay(capsys, *arguments):
    code = run(["replay", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def lines(capsys, *arguments):
    code, out, err = replay(capsys, *arguments, "--json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


PATIENCE = "patience(patience=2)"


@pytest.mark.parametrize("goal", ["min", "max"])
def test_a_table_in_parquet_gives_a_line_a_policy(tmp_path, capsys, goal):
    table(goal).to_parquet(tmp_path / "t.parquet")
    first, second = lines(capsys, tmp_path / "t.parquet", "-p", PATIENCE, "-p", "default")
    assert (first["policy"], first["runs"], first["groups"], first["decisions"]) == (PATIENCE, 2, 1, 1)
    assert first["compute_saved"] == pytest.approx(20 / 120)
    assert (first["best_trial_cut"], first["groups_losing_more_than_1_percent"]) == (0.0, 0.0)
    assert first["loss_of_best"]["p100"] == 0.0
    assert second["policy"] == "default"


def test_a_csv_with_run_and_another_grouping_column(tmp_path, capsys):
    data = table().rename(columns={"trial": "run", "group": "study"}).drop(columns="higher_is_better")
    data.to_csv(tmp_path / "t.csv", index=False)
    found = lines(capsys, tmp_path / "t.csv", "-p", PATIENCE, "--group-by", "study", "--runs")
    assert [(one["run"], one["group"], one["stopped_at"], one["steps_saved"]) for one in found] == [
        ("good", "g", None, 0),
        ("stuck", "g", 40, 20),
    ]
    assert found[1]["reason"] == "value no better than 4.5 for 2 evaluations (best at step 20)"
    assert (found[1]["best_before"], found[1]["best_after"]) == (4.5, 4.5)


def test_every_curve_twice_is_every_curve_once(tmp_path, capsys):
    table().to_parquet(tmp_path / "once.parquet")
    pd.concat([table(), table()]).to_parquet(tmp_path / "twice.parquet")
    once, twice = (lines(capsys, tmp_path / name, "-p", PATIENCE, "--runs") for name in ("once.parquet", "twice.parquet"))
    for one in (*once, *twice):
        one.pop("decision")  # the trigger counts the rows
    assert once == twice


def test_without_a_grouping_column_each_run_is_a_group_of_its_own(tmp_path, capsys):
    table().drop(columns="group").to_parquet(tmp_path / "t.parquet")
    (line,) = lines(capsys, tmp_path / "t.parquet", "-p", PATIENCE)
    assert (line["runs"], line["groups"]) == (2, 2)


def test_rows_without_a_number_are_counted_and_left_out(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("run,step,value\na,1,2.5\na,2,\na,x,3\na,3,NaN\n")
    code, out, err = replay(capsys, tmp_path / "t.csv", "-p", PATIENCE, "--runs", "--json")
    assert code == 0
    assert "2 rows had no step or no number" in err
    assert json.loads(out)["steps"] == 3, "NaN is a value that was logged"


def test_times_order_the_points_of_a_group(tmp_path, capsys):
    late = table()
    late["time"] = np.where(late["trial"] == "good", 1000.0, 0.0) + late["step"]
    late.to_parquet(tmp_path / "t.parquet")
    found = lines(capsys, tmp_path / "t.parquet", "-p", PATIENCE, "--runs")
    assert {one["run"]: one["stopped_at"] for one in found} == {"good": None, "stuck": 40}


def test_a_tree_of_event_files(tmp_path, capsys):
    from torch.utils.tensorboard import SummaryWriter

    for name, values in (("good", GOOD), ("stuck", STUCK)):
        with SummaryWriter(str(tmp_path / "study" / name)) as writer:
            for i, value in enumerate(values):
                writer.add_scalar("val/loss", value, i)
                writer.add_scalar("lr", 0.1, i)
    found = lines(capsys, tmp_path, "-p", PATIENCE, "--runs")
    assert [(one["group"], one["run"], one["series"], one["stopped_at"]) for one in found] == [
        ("study", "study/good", "val/loss", None),
        ("study", "study/stuck", "val/loss", 3),
    ]
    code, _, err = replay(capsys, tmp_path, "--series", "nothing")
    assert code == 1
    assert "--series NAME judges one of lr, val/loss" in err


@pytest.mark.parametrize(
    ("file", "arguments", "told"),
    [
        ("run,value\na,1\n", (), "no column 'step'"),
        ("step,value\n1,1\n", (), "no column run or trial"),
        ("run,step,value\na,1,1\n", ("--group-by", "study"), "no column 'study'"),
        ("run,step,value\na,1,1\n", ("--series", "loss"), "no column is called 'loss'"),
        ("run,step,value\na,1,1\n", ("-p", "patiense"), "patience"),
        ("run,step,value\na,1,1\n", ("-p", "patience(patience=0)"), "patience"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_to_do(tmp_path, capsys, file, arguments, told):
    (tmp_path / "t.csv").write_text(file)
    code, out, err = replay(capsys, tmp_path / "t.csv", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert "hint: " in err


def test_a_path_that_is_not_there_or_is_no_table(tmp_path, capsys):
    assert "there is no" in replay(capsys, tmp_path / "none.parquet")[2]
    (tmp_path / "t.parquet").write_text("hello")
    code, _, err = replay(capsys, tmp_path / "t.parquet")
    assert code == 2
    assert "cannot be read" in err


def stored(folder, **said):
    """A store with one run of six points, five of them no better than the first, whose job states what is `said`."""
    store = MetricsStore(str(folder), ManualClock(0.0))
    chunk = MetricChunk("flat", "A", "sdk", 0, [Series("score", list(range(6)), [0.5] * 6, [float(i) for i in range(6)])])
    events = ((RUNS, RunEvent("flat", "A", "started", 0.0, started=Started(**({"monitor": "score"} | said)))), (METRICS, chunk))
    store.handle([Record(topic, 0, 0, "g", encode(event), 0.0) for topic, event in events], 0.0)
    store.flush(0.0)
    return folder


def stopped_at(capsys, folder, config, policy="configured"):
    (folder / "config.yaml").write_text(config)
    arguments = ["--config", folder / "config.yaml", "replay", folder, "-p", policy, "--runs", "--json"]
    assert run([*map(str, arguments)]) == 0
    return {line["run"]: line["stopped_at"] for line in map(json.loads, capsys.readouterr().out.splitlines())}


def test_configured_is_what_the_job_stated_within_the_operators_limits(tmp_path, capsys):
    folder = stored(tmp_path, policies={"patience": {"patience": 2}})
    assert stopped_at(capsys, folder, "policies: {default: act}") == {"flat": 2}
    assert stopped_at(capsys, folder, "policies: {default: act}", "default") == {"flat": None}
    refused = "watch: [{match: {name: flat}, limits: {job_policies: false}}]"
    assert stopped_at(capsys, folder, refused) == {"flat": None}


def test_configured_judges_a_run_by_its_own_entry_and_your_aliases(tmp_path, capsys):
    entry = "watch: [{match: {name: flat}, monitor: quality, policies: {patience: {patience: 4}}}]"
    folder = stored(tmp_path)
    assert stopped_at(capsys, folder, entry) == {"flat": 4}
    assert stopped_at(capsys, folder, entry.replace("name: flat", "name: other")) == {"flat": None}
    unnamed = stored(tmp_path / "unnamed", monitor=None)
    assert stopped_at(capsys, unnamed, entry + "\nmonitoring: {aliases: {quality: [score]}}") == {"flat": 4}


def test_the_steps_that_a_job_means_to_take_count_in_a_replay(tmp_path, capsys):
    assert [line["total_steps"] for line in run_rows(stored(tmp_path, total_steps=1000))] == [1000]
    (trials,) = stored_trials(tmp_path, Asked(), {"score"}, Aliases()).groups.values()
    assert [trial.said.total_steps for trial in trials] == [1000]
