"""docs/pandas.md runs as it stands, over what a daemon stored of jobs that used the SDK."""

import json
import pathlib
import re

import pandas
import pytest
from smarttuner.consumers.parquet_files import DECISIONS_SCHEMA, METRICS_SCHEMA, RUNS_SCHEMA
from workplace import Workplace, until

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "pandas.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
JOB = "../pandas_job.py"
SLOW_S = 300.0  # torch may take that long to import on a machine with much else to do
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs of a sweep, the learning rate of one halved by hand; and a run that was resumed from its step 6."""
    place = Workplace(tmp_path_factory.mktemp("pandas") / "place")
    try:
        place.daemon().ready()
        steered = place.job("my-run", JOB, lr=0.25, steps=6, changes=1)
        jobs = [
            steered,
            place.job("other-run", JOB, lr=0.01, steps=10, attach={"tags": {"who": "ann"}}),
            place.job("long-run", JOB, lr=0.1, steps=10),
        ]
        until(lambda: (steered.folder / "running").exists(), SLOW_S, told=steered.said)
        done = place.cli("decide", "my-run", "scale-lr", "0.5", "--reason", "it swings", "--wait", "--json")
        assert done.returncode == 0, done.stderr
        for job in jobs:
            assert job.ended() == 0, job.said()
        until(lambda: place.states().get("long-run", ("",))[0] == "finished")
        jobs[2].folder.rename(place.notes / "before")
        again = place.job("long-run", JOB, lr=0.05, first=7, steps=6, attach={"resume_from_step": 6})
        assert again.ended() == 0, again.said()
        until(lambda: {state for state, _ in place.states().values()} == {"finished"} and len(place.runs()) == 4)
        yield place
    finally:
        place.shut()


@pytest.fixture(scope="module")
def folder(place):
    return place.data


@pytest.fixture(scope="module")
def names(folder):
    """What the snippets leave behind, one after the other."""
    names = {"folder": str(folder)}
    for snippet in SNIPPETS:
        exec(snippet, names)
    return names


def test_every_snippet_runs(names):
    assert len(SNIPPETS) >= 8
    assert len(names["one"]) == len(names["metrics"].query("run == 'my-run' and series == 'val_loss'"))
    assert list(names["one"]) == ["step", "value"]


def test_curves_stand_side_by_side(names):
    curves = names["curves"]
    assert list(curves) == ["long-run", "my-run", "other-run"]
    assert curves["other-run"].dropna().is_monotonic_decreasing
    assert curves["other-run"].count() == 10


def test_the_best_of_each_run_and_its_parameters(names):
    ranking = names["ranking"].set_index("run")
    metrics = names["metrics"]
    for run, row in ranking.iterrows():
        mine = metrics[(metrics["run"] == run) & (metrics["series"] == "val_loss")]
        mine = mine[mine["attempt"] == mine["attempt"].max()]
        assert row["best.val_loss"] == mine["value"].min()
        assert row["best_step.val_loss"] == mine.sort_values("step").loc[mine["value"].idxmin(), "step"]
    assert ranking["params.lr"].to_dict() == {"my-run": 0.25, "other-run": 0.01, "long-run": 0.05}
    assert names["by_lr"].index.tolist() == [0.01, 0.05, 0.25]


def test_a_resumed_run_is_one_curve(names):
    whole = names["whole"]
    assert whole["step"].tolist() == list(range(13))
    assert whole.groupby("attempt_number")["step"].agg(["min", "max"]).values.tolist() == [[0, 6], [7, 12]]


def test_a_change_of_the_learning_rate_stands_on_the_curve(names):
    (mark,) = names["marks"].to_dict("records")
    decided = pandas.read_parquet(f"{names['folder']}/decisions").set_index("id").loc[mark["id"]]
    assert (mark["run"], mark["action"], mark["reason"]) == ("my-run", "scale-lr", "it swings")
    assert mark["step"] <= mark["applied_step"] == decided["applied_step"]
    assert json.loads(decided["after"]) == mark["after"] == 0.125
    curve = names["metrics"].query("run == 'my-run' and series == 'val_loss'").set_index("step")["value"]
    assert mark["value"] == curve[mark["step"]]


def test_the_same_jobs_are_drawn(place, tmp_path):
    svg, page = tmp_path / "my-run.svg", tmp_path / "sweep.html"
    assert place.cli("plot", "my-run", "val_loss", "-o", svg).returncode == 0
    assert "my-run: lr × 0.5, applied at step" in svg.read_text()
    done = place.cli("plot", "sweep", "-o", page, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) | {"notes": []} == {
        "file": str(page),
        "runs": ["long-run", "my-run", "other-run"],
        "series": ["val_loss"],
        "points": len(place.metrics().query("series == 'val_loss'")) - 10,  # long-run's first attempt is none of the newest
        "decisions": len(place.decisions()),
        "notes": [],
    }
    assert "it swings" in page.read_text()


@pytest.mark.parametrize(("name", "schema"), [("metrics", METRICS_SCHEMA), ("runs", RUNS_SCHEMA), ("decisions", DECISIONS_SCHEMA)])
def test_the_page_names_the_columns_that_there_are(folder, name, schema):
    said = re.search(rf"\| `{name}/` \| [^|]+ \| ([^|]+) \|", PAGE).group(1)
    assert [one.strip() for one in said.split(",")] == list(pandas.read_parquet(folder / name).columns) == schema.names
