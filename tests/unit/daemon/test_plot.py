"""`smart-tuner plot` as a person types it: what is on the figure, and what is said where there is none."""

import json
from xml.etree import ElementTree

import pytest
from smarttuner.consumers.figures import stored as stored_figures
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record
from smarttuner.daemon.cli.main import run

T = 1.7e9
SVG = "{http://www.w3.org/2000/svg}"


def chunk(run, attempt, seq=0, **series):
    points = [Series(name, list(steps), list(values), [T] * len(steps)) for name, (steps, values) in series.items()]
    return (METRICS, MetricChunk(run, attempt, "sdk", seq, points, group="sweep"))


def started(run, attempt, at=0, **said):
    return (RUNS, RunEvent(run, attempt, "started", T + at, 0, group="sweep", started=Started(**said)))


def decided(name, run, attempt, action, step, **said):
    return (CONTROL, Decision(name, run, attempt, action, "plateau", f"sdk:{step}", f"why {name}", T, T + 9, step=step, **said))


def fill(folder, events):
    store = MetricsStore(str(folder), ManualClock())
    store.handle([Record(topic, 0, i, "sweep", encode(body), T + i) for i, (topic, body) in enumerate(events)], T)
    store.flush(T)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Group sweep: run a, resumed once, and run b, whose judged series has another name; and run c, of which only points
    arrived."""
    monitor = {"monitor": "val_loss", "goal": "min"}
    events = [
        started("a", "A1", **monitor),
        started("a", "A2", 5, resume_from_step=2, **monitor),
        started("b", "B1", **monitor),
        started("odd/name", "D1"),
        chunk("a", "A1", val_loss=(range(1, 4), [9.0, 8.0, 7.0])),
        chunk("a", "A2", val_loss=(range(3, 7), [6.0, 5.0, 4.0, 3.0]), acc=(range(3, 7), [0.1, 0.2, 0.3, 0.4])),
        chunk("a", "A2", 8, lr=([3], [0.1])),
        chunk("b", "B1", eval_loss=(range(1, 5), [9.0, 9.5, 9.8, 9.9])),
        chunk("c", "C1", loss=([1], [1.0])),
        decided("d1", "a", "A2", "scale-lr", 4, params={"factor": 0.5}, mode="act"),
        decided("d2", "b", "B1", "prune", 3, status="would"),
        decided("d3", "a", "A2", "checkpoint", None, status="refused", refused_by="limits: enough for an hour"),
        decided("d4", "a", "A1", "alert", 2, status="applied"),
        (RUNS, Ack("d1", "a", "A2", "applied", T + 1, step=5, before=[0.1], after=[0.05])),
    ]
    return fill(tmp_path_factory.mktemp("plot") / "store", events)


@pytest.fixture
def plot(folder, tmp_path, capsys, monkeypatch):
    """Runs the command in a folder of its own; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def type_in(*arguments, data_dir=folder):
        code = run(["--data-dir", str(data_dir), "plot", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return type_in


def titles(svg, kind):
    return [one.find(f"{SVG}title").text for one in svg.iter(f"{SVG}g") if one.get("class", "").split(" ")[0] == kind]


def panels(svg):
    return [one.find(f"{SVG}text").text for one in svg.iter(f"{SVG}g") if one.get("class") == "panel"]


def drawn(path):
    return ElementTree.parse(path).getroot()


def test_a_series_is_drawn_under_the_names_of_your_own_list(folder, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("monitoring: {aliases: {quality: [acc]}}")
    typed = ["--data-dir", str(folder), "plot", "a", "quality", "-o", str(tmp_path / "a.svg"), "--json"]
    assert run(typed) == 2
    assert "has no series 'quality'" in capsys.readouterr().err
    assert run(["--config", str(tmp_path / "c.yaml"), *typed]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == 4


def test_a_run_is_drawn_series_by_series_the_judged_one_first(plot, tmp_path):
    code, out, err = plot("a", "-o", "a.svg")
    assert (code, out) == (0, "a.svg\n")
    svg = drawn(tmp_path / "a.svg")
    assert panels(svg) == ["val_loss", "acc", "lr"]
    assert titles(svg, "curve") == ["a"] * 3
    assert (
        titles(svg, "mark") == ["a: lr × 0.5, applied at step 5\nwhy d1\n0.1 → 0.05\nplateau, 2023-11-14T22:13:20.000000Z, d1"] * 3
    )
    assert "1 more decisions have no place here" in err


def test_a_group_is_drawn_with_all_its_runs_under_one_name_of_the_series(plot, tmp_path):
    code, out, _ = plot("sweep", "-o", "s.svg", "--json")
    assert code == 0
    assert json.loads(out) == {
        "file": "s.svg",
        "runs": ["a", "b", "odd/name"],
        "series": ["val_loss"],
        "points": 8,
        "decisions": 3,
        "notes": ["1 more decisions have no place here; smart-tuner decisions lists them"],
    }
    svg = drawn(tmp_path / "s.svg")
    assert titles(svg, "curve") == ["a", "b"]
    assert [one.split("\n")[0] for one in titles(svg, "mark")] == ["b: prune, would at step 3", "a: lr × 0.5, applied at step 5"]


def test_all_attempts_of_a_resumed_run(plot, tmp_path):
    assert plot("a", "val_loss", "--attempts", "all", "-o", "a.svg")[0] == 0
    svg = drawn(tmp_path / "a.svg")
    assert titles(svg, "curve") == ["a (attempt 1)", "a (attempt 2)"]
    assert [path.get("stroke-opacity") for path in svg.findall(f".//{SVG}g[@class='curve']/{SVG}path")] == ["0.45", None]
    assert len(titles(svg, "mark")) == 2


def test_a_page_shows_the_figure_and_every_decision_in_words(plot, tmp_path):
    assert plot("sweep")[1] == "sweep.html\n"
    page = ElementTree.parse(tmp_path / "sweep.html").getroot()
    html = "{http://www.w3.org/1999/xhtml}"
    rows = [[cell.text or "" for cell in row] for row in page.iter(f"{html}tr")]
    assert rows[0][:4] == ["time", "run", "step", "action"]
    assert ["refused", "why d3", "plateau", "limits: enough for an hour"] in [row[4:] for row in rows]
    assert len(rows) == 4
    assert titles(page, "curve") == ["a", "b"]
    text = (tmp_path / "sweep.html").read_text()
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org/", "")


def test_a_page_says_in_hindsight_what_acting_would_have_saved(plot, tmp_path):
    ended = (RUNS, RunEvent("a", "A", "ended", T + 90, 99, group="sweep", state="finished"))
    events = [started("a", "A", monitor="val_loss", goal="min"), chunk("a", "A", val_loss=(range(1, 11), [3.0, 1.0, *[2.0] * 8]))]
    events += [decided("d", "a", "A", "prune", 5, status="would", evidence={"series": "val_loss", "goal": "min"}), ended]
    assert plot("a", data_dir=fill(tmp_path / "store", events))[0] == 0
    assert "right: 5 steps saved" in (tmp_path / "a.html").read_text()


def test_a_run_of_which_only_points_arrived_and_one_with_a_slash_in_its_name(plot, tmp_path):
    assert plot("c")[1] == "c.html\n"
    code, _, err = plot("odd/name")
    assert code == 1
    assert "has logged nothing yet" in err
    assert plot("a", "acc", "-o", "-")[1].startswith("<svg ")
    assert [one.name for one in tmp_path.iterdir()] == ["c.html"]


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (["swep"], 1, "did you mean sweep?"),
        (["nobody"], 1, "known: a, b, c, odd/name, sweep"),
        (["a", "val_los"], 2, "did you mean val_loss?"),
        (["a", "-o", "a.png"], 2, "write -o a.svg or -o a.html"),
        (["a", "-o", "none/a.svg"], 1, "none/a.svg: No such file or directory"),
        (["a", "-o", "."], 2, "neither SVG nor HTML"),
    ],
)
def test_what_cannot_be_drawn_is_said_with_what_to_do(plot, tmp_path, typed, code, said):
    found = plot(*typed)
    assert (found[0], found[1]) == (code, "")
    assert said in found[2]
    assert "hint: " in found[2]
    assert list(tmp_path.iterdir()) == []


def test_nothing_stored_is_said(plot, tmp_path):
    code, _, err = plot("a", data_dir=tmp_path / "none")
    assert code == 1
    assert "nothing is stored there yet" in err


def test_a_file_is_replaced_as_a_whole_or_not_at_all(plot, tmp_path):
    target = tmp_path / "a.svg"
    target.write_text("before")
    held = target.open()
    assert plot("a", "-o", "a.svg")[0] == 0
    assert held.read() == "before"  # another file has its name now
    held.close()
    assert drawn(target).tag == f"{SVG}svg"
    (tmp_path / "dir.svg").mkdir()
    code, _, err = plot("a", "-o", "dir.svg")
    assert code == 1
    assert "is no file that can be replaced" in err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.svg", "dir.svg"]


def test_of_many_decisions_those_that_were_applied_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_figures, "MAX_MARKS", 3)
    events = [started("a", "A"), chunk("a", "A", x=(range(10), range(10)))]
    events += [decided(f"d{i}", "a", "A", "prune", i, status="applied" if i in (4, 8) else "would") for i in range(10)]
    folder = fill(tmp_path / "store", events)
    found = stored_figures.figure_of(folder, stored_figures.find_subject(folder, "a", "current"))
    assert sorted(mark.status for mark in found.figure.panels[0].marks) == ["applied", "applied", "would"]
    assert found.figure.notes == ["7 more decisions have no place here; smart-tuner decisions lists them"]


def test_what_a_logarithmic_axis_cannot_show_is_counted(tmp_path):
    folder = fill(tmp_path / "store", [started("a", "A"), chunk("a", "A", x=(range(4), [1.0, 0.0, -2.0, float("nan")]))])
    subject = stored_figures.find_subject(folder, "a", "current")
    said = stored_figures.figure_of(folder, subject, log=True).figure.notes
    assert said == ["2 values that are not above 0 have no place on a logarithmic axis"]
    assert stored_figures.figure_of(folder, subject).figure.notes == []


def test_a_mark_stands_at_the_value_that_the_curve_had_there(tmp_path):
    steps, values = [1, 2, 3, 2, 3], [9.0, 8.0, float("nan"), 5.0, 4.0]
    events = [started("a", "A"), chunk("a", "A", x=(steps, values))]
    events += [decided(f"d{step}", "a", "A", "prune", step, status="would") for step in (0, 1, 2, 3, 9)]
    folder = fill(tmp_path / "store", events)
    found = stored_figures.figure_of(folder, stored_figures.find_subject(folder, "a", "current"))
    assert [mark.value for mark in found.figure.panels[0].marks][1:] == [9.0, 5.0, 4.0, 4.0]
    assert found.figure.panels[0].curves[0].steps.tolist() == steps
