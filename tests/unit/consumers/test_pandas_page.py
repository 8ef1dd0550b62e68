"""docs/pandas.md runs as it stands."""

import pathlib
import re

import pytest
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record

PAGE = (pathlib.Path(__file__).resolve().parents[3] / "docs" / "pandas.md").read_text()
T = 1.7e9


@pytest.fixture
def folder(tmp_path):
    store = MetricsStore(str(tmp_path), ManualClock())
    points = [Series("val_loss", [1, 2, 3], [3.0, 1.0, 2.0], [T, T + 1, T + 2])]
    bodies = [
        (RUNS, RunEvent("my-run", "A", "started", T, 0, started=Started(monitor="val_loss", goal="min"))),
        (METRICS, MetricChunk("my-run", "A", "sdk", 1, points)),
        (CONTROL, Decision("d1", "my-run", "A", "prune", "patience", "sdk:3", "no better", T, T + 600, step=3)),
        (RUNS, Ack("d1", "my-run", "A", "applied", T + 3, 4, step=3)),
    ]
    store.handle([Record(topic, 0, i, "k", encode(body), T + i) for i, (topic, body) in enumerate(bodies)], T + 9)
    store.flush(T + 9)
    return str(tmp_path)


def test_every_snippet_runs_and_finds_what_was_stored(folder):
    names = {"folder": folder}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(snippet.replace('.plot(x="step", y="value")', ""), names)
    assert list(names["one"].sort_values("step")["value"]) == [3.0, 1.0, 2.0]
    assert names["best"].loc["my-run", "step"] == 2
    assert names["applied"]["step_best"].tolist() == [2]
    assert names["curves"]["my-run"].tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("name", ["metrics", "runs", "decisions"])
def test_the_page_names_the_columns_that_there_are(folder, name):
    import pandas

    said = re.search(rf"\| `{name}/` \| [^|]+ \| ([^|]+) \|", PAGE).group(1)
    assert [one.strip() for one in said.split(",")] == list(pandas.read_parquet(f"{folder}/{name}").columns)
