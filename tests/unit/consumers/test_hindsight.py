"""What came of runs about which something was only concluded, read from stores as the daemon fills them."""

import json

import numpy as np
import pytest
import smarttuner
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers import hindsight as module
from smarttuner.consumers.hindsight import Hindsight
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.past_curve import Curve, Moment
from smarttuner.consumers.reading import decision_rows
from smarttuner.consumers.retention import Retention
from smarttuner.consumers.track_record import track_record
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started, encode
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record

NOW = 1_700_000_000.0
NAN, INF = float("nan"), float("inf")


class Log:
    """Events in the order of a log, in a store; each point is born a second after the one before."""

    def __init__(self, folder, **options):
        self.folder, self.offset = folder, 0
        self.store = MetricsStore(str(folder), ManualClock(NOW), **options)

    def add(self, topic, event):
        self.store.handle([Record(topic, 0, self.offset, "k", encode(event), NOW + self.offset)], NOW + self.offset)
        self.offset += 1

    def start(self, run, attempt="", group=None, at=0.0, **said):
        said = Started(monitor="val_loss", goal="min") if not said else Started(**said)
        self.add(RUNS, RunEvent(run, attempt or run, "started", NOW + at, 0, group=group, started=said))
        return self

    def points(self, run, values, attempt="", series="val_loss", seq=1, steps=None):
        for i, value in enumerate(values):
            step = 10 * (seq + i) if steps is None else steps[i]
            one = Series(series, [step], [value], [NOW + seq + i])
            self.add(METRICS, MetricChunk(run, attempt or run, "sdk", seq + i, [one]))
        return self

    def would(self, run, step, value, attempt="", action="prune", policy="patience", status="would", **evidence):
        shown = {"series": "val_loss", "goal": "min", "step": step, "value": value, **evidence}
        name, at = f"{attempt or run}-{policy}-{step}", NOW + step
        told = {"step": step, "evidence": shown, "status": status}
        self.add(CONTROL, Decision(name, run, attempt or run, action, policy, "t", "why", at, at + 99, **told))
        return self

    def end(self, run, at, attempt="", state="finished"):
        self.add(RUNS, RunEvent(run, attempt or run, "ended", NOW + at, 99, state=state))
        return self

    def rows(self):
        """The decisions with their hindsight, by id."""
        self.store.flush(NOW)
        rows = decision_rows(self.folder)
        seen = Hindsight(self.folder, rows)
        return {row["id"]: seen.of(row) for row in rows}


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "store")


def test_a_prune_that_came_behind_the_best_was_right(log):
    log.start("r").points("r", [3.0, 1.0, 2.0, 2.0, 2.0]).would("r", 30, 2.0).end("r", 8)
    assert log.rows() == {
        "r-patience-30": {
            "best_before": 1.0, "best_after": 1.0, "best_step": 20, "steps": 50, "steps_saved": 20, "seconds_saved": 5.0,
            "lost": 0.0, "group_lost": None,
        }
    }  # fmt: skip


@pytest.mark.parametrize("goal", ["min", "max"])
def test_what_a_prune_would_have_lost_follows_the_goal(log, goal):
    sign = 1.0 if goal == "min" else -1.0
    values = [sign * one for one in [5.0, 4.0, 4.5, 3.0, 9.0]]
    log.start("r").points("r", values).would("r", 30, values[2], goal=goal).end("r", 9)
    (seen,) = log.rows().values()
    assert (seen["best_before"], seen["best_after"], seen["best_step"]) == (sign * 4.0, sign * 3.0, 40)
    assert seen["lost"] == pytest.approx(1 / 3)


def test_points_are_before_or_behind_a_decision_by_the_log_and_not_by_their_step(log):
    """Weights were restored: steps begin again from an earlier one."""
    log.start("r").points("r", [5.0, 4.0, 6.0]).points("r", [5.5, 2.0], seq=4, steps=[15, 25]).would("r", 30, 6.0).end("r", 9)
    (seen,) = log.rows().values()
    assert (seen["best_before"], seen["best_after"], seen["best_step"]) == (4.0, 2.0, 25)


def test_nothing_is_told_of_a_run_that_goes_on_nor_of_what_was_not_only_concluded(log):
    log.start("on").points("on", [1.0, 2.0]).would("on", 20, 2.0)
    log.start("done").points("done", [1.0, 2.0]).would("done", 20, 2.0, status="pending").end("done", 4, state="pruned")
    log.add(RUNS, Ack("done-patience-20", "done", "done", "applied", NOW, step=20))
    log.points("silent", [1.0]).would("silent", 10, 1.0)
    assert log.rows() == {"on-patience-20": None, "done-patience-20": None, "silent-patience-10": None}


def test_attempts_are_looked_back_on_one_by_one(log):
    log.start("r", "a").points("r", [3.0, 2.0, 2.5], "a").would("r", 30, 2.5, "a").end("r", 5, "a", state="failed")
    log.start("r", "b", at=6).points("r", [2.0, 1.0], "b").would("r", 10, 2.0, "b")
    before = log.rows()
    assert before["b-patience-10"] is None
    assert (before["a-patience-30"]["best_after"], before["a-patience-30"]["steps_saved"]) == (2.0, 0)
    log.end("r", 9, "b")
    assert log.rows()["b-patience-10"]["lost"] == 1.0


def test_values_that_are_no_numbers_do_not_count(log):
    log.start("nan").points("nan", [NAN, INF, NAN]).would("nan", 30, "NaN", policy="divergence").end("nan", 5)
    log.start("late").points("late", [NAN, 2.0]).would("late", 10, "NaN", policy="divergence").end("late", 5)
    seen = log.rows()
    never, late = seen["nan-divergence-30"], seen["late-divergence-10"]
    assert (never["best_before"], never["best_after"], never["best_step"], never["lost"]) == (None, None, None, 0.0)
    assert (late["best_before"], late["best_after"], late["lost"]) == (None, 2.0, INF)


def test_a_group_loses_only_where_no_other_run_was_as_good(log):
    for run, values in (("a", [5.0, 4.0, 3.0]), ("b", [5.0, 4.5, 2.0]), ("c", [6.0, 6.0, 6.0])):
        log.start(run, group="g").points(run, values)
    log.would("a", 20, 4.0).would("b", 20, 4.5).end("a", 9).end("b", 9)
    seen = log.rows()
    assert (seen["a-patience-20"]["lost"], seen["a-patience-20"]["group_lost"]) == (pytest.approx(1 / 3), 0.0)
    assert seen["b-patience-20"]["group_lost"] == pytest.approx(0.5), "what is left is the 3 of run a"
    (line,) = track_record(log.folder, decision_rows(log.folder))
    assert (line["groups"], line["groups_worse"], line["runs_worse"]) == (1, 1, 2)
    assert line["loss_worst"] == pytest.approx(1.25)


def test_a_peer_counts_under_the_name_that_it_gives_the_series(log):
    log.start("a", group="g").points("a", [5.0, 3.0]).would("a", 10, 5.0).end("a", 5)
    log.start("b", group="g").points("b", [2.0], series="eval/loss")
    assert log.rows()["a-patience-10"]["group_lost"] == 0.0


def test_a_later_attempt_of_the_run_would_not_have_been_begun(log):
    log.start("a", "a1", group="g").points("a", [5.0, 3.0], "a1").would("a", 10, 5.0, "a1").end("a", 3, "a1", state="failed")
    log.start("a", "a2", group="g", at=4).points("a", [1.0], "a2")
    log.start("b", group="g", at=4).points("b", [4.0])
    assert log.rows()["a1-patience-10"]["group_lost"] == pytest.approx(1 / 3)


def test_a_learning_rate_that_was_not_changed_says_whether_things_went_on_without(log):
    scale = {"action": "scale-lr", "policy": "plateau"}
    log.start("r").points("r", [3.0, 2.0, 2.0, 1.5] + [2.0] * 10 + [1.0])
    log.would("r", 20, 2.0, **scale).would("r", 40, 1.5, **scale).would("r", 150, 1.0, **scale).end("r", 20)
    seen = log.rows()
    told = {name: (one["improved_after"], one["points_after"]) for name, one in seen.items()}
    assert told == {"r-plateau-20": (True, 10), "r-plateau-40": (False, 10), "r-plateau-150": (None, 0)}
    (line,) = track_record(log.folder, decision_rows(log.folder))
    assert (line["decisions"], line["ended"], line["right"]) == (3, 2, 1)


def test_other_actions_are_unknown_and_say_why(log):
    log.start("r").points("r", [1.0]).would("r", 10, 1.0, action="restore", policy="p").end("r", 4)
    assert log.rows()["r-p-10"] == {"unknown": "the points do not tell what a restore would have changed"}


def test_a_run_that_fell_silent_is_looked_back_on_by_the_time_of_the_decision(log):
    log.start("r").points("r", [3.0, 2.0, 1.0])
    told = {"evidence": {"series": "val_loss"}, "status": "would"}
    log.add(CONTROL, Decision("s", "r", "r", "prune", "stall", "t", "why", NOW + 2.5, NOW + 9, **told))
    log.end("r", 9)
    seen = log.rows()["s"]
    assert (seen["best_before"], seen["best_after"], seen["seconds_saved"]) == (2.0, 1.0, 7.0)


def test_what_retention_has_removed_is_unknown(tmp_path):
    log = Log(tmp_path, seal_rows=2, retention=Retention(age_s=1000.0))
    log.start("r").points("r", [1.0, 2.0]).would("r", 20, 2.0).end("r", 3)
    log.points("other", [1.0] * 6)
    log.store.flush(NOW)
    assert log.rows()["r-patience-20"]["lost"] == 0.0
    log.store.tick(NOW + 5000)
    assert log.rows() == {"r-patience-20": {"unknown": "the points of val_loss are not stored any more"}}
    (line,) = track_record(log.folder, decision_rows(log.folder))
    assert (line["ended"], line["unknown"], line["right_interval"]) == (0, 1, None)


def test_points_may_stand_in_several_files_and_row_groups(tmp_path, monkeypatch):
    log = Log(tmp_path, seal_rows=3)
    values = [9.0, 5.0, 7.0, 7.0, 4.0, 7.0, 3.5, 7.0]
    log.start("r").points("r", values).would("r", 40, 7.0).would("r", 50, 4.0, action="scale-lr", policy="plateau").end("r", 9)
    monkeypatch.setattr("smarttuner.consumers.summaries.BATCH_ROWS", 1)
    seen = log.rows()
    assert (seen["r-patience-40"]["best_before"], seen["r-patience-40"]["best_after"]) == (5.0, 3.5)
    assert (seen["r-plateau-50"]["improved_after"], seen["r-plateau-50"]["points_after"]) == (True, 3)


def test_many_decisions_read_each_file_once_and_only_what_they_ask_for(log, monkeypatch):
    log.start("r").start("deaf").points("deaf", [1.0] * 5).points("r", [1.0] * 5, series="train_loss")
    chunk = Series("val_loss", list(range(2000)), [1.0] * 2000, [NOW] * 2000)
    log.add(METRICS, MetricChunk("r", "r", "sdk", 10, [chunk]))
    for step in range(1000, 2000):
        log.would("r", step, 1.0)
    log.end("r", 9)
    log.store.flush(NOW)
    read, asked = module.read_each, []

    def counted(folder, name, how, **options):
        for parts in read(folder, name, how, **options):
            asked.append([part[:2] for part in parts])
            yield parts

    monkeypatch.setattr(module, "read_each", counted)
    rows = decision_rows(log.folder)
    seen = Hindsight(log.folder, rows)
    assert [seen.of(row)["steps_saved"] for row in rows] == list(range(999, -1, -1))
    assert asked == [[("r", "val_loss")]]


@pytest.mark.parametrize("born", [0.0, -7.0])
def test_a_curve_may_begin_in_1970_and_its_steps_below_0(born):
    curve, steps, times = Curve({"min"}), np.array([-3, -9]), np.array([born, born - 1.0])
    for i in range(2):
        curve.take(steps[i : i + 1], np.ones(1), times[i : i + 1])
        assert (curve.steps, curve.last) == (-3, born)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_remembered_of_a_curve_does_not_depend_on_the_parts_it_is_read_in(data):
    """Compared with a look at the whole of it."""
    n = data.draw(st.integers(1, 30))
    some = st.sampled_from([1.0, 2.0, 3.0, NAN, INF, -INF])
    values = np.array(data.draw(st.lists(some, min_size=n, max_size=n)))
    steps = np.array(data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)) if data.draw(st.booleans()) else range(n))
    goal, at = data.draw(st.sampled_from(["min", "max"])), data.draw(st.integers(0, n - 1))
    times = np.arange(n) + data.draw(st.sampled_from([0.0, -40.0, 1.7e9]))
    moments = [Moment(goal, int(steps[at]), float(values[at]), 0.0), Moment(goal, None, None, times[at] + 0.5)]
    curve = Curve({goal}, moments)
    for part in np.split(np.arange(n), sorted(data.draw(st.sets(st.integers(1, n))) - {n})):
        curve.take(steps[part], values[part], times[part])
    y = np.where(np.isfinite(values), values if goal == "min" else -values, INF)
    same = [i for i in range(n) if steps[i] == steps[at] and repr(values[i]) == repr(values[at])]
    for moment, place in zip(moments, (same[0], at), strict=True):
        assert moment.met
        assert (moment.before, moment.born) == (y[: place + 1].min(), times[place])
        soon = y[place + 1 : place + 11]
        assert (moment.soon, moment.followed) == (soon.min(initial=INF), len(soon))
    assert curve.bests.get(goal, INF) == y.min()
    assert goal not in curve.best_steps or curve.best_steps[goal] == steps[y.argmin()]
    assert (curve.steps, curve.last) == (steps.max(), times[-1])


def test_a_frame_has_the_same_as_values(log):
    log.start("r").points("r", [NAN, 2.0]).would("r", 10, "NaN").end("r", 5)
    rows = log.rows()
    frame = smarttuner.read_decisions(data_dir=log.folder)
    assert frame["hindsight"].tolist() == list(rows.values())
    assert frame["hindsight"][0]["lost"] == INF
    assert smarttuner.read_decisions(data_dir=f"file://{log.folder}")["hindsight"].tolist() == list(rows.values())


def test_only_the_first_prune_of_an_attempt_counts_and_what_it_saves_is_summed(log):
    for run, group in (("a", "g"), ("b", None)):
        log.start(run, group=group).points(run, [2.0, 1.0, 1.5, 1.5]).would(run, 30, 1.5).would(run, 40, 1.5)
    log.end("a", 3603).end("b", 8)
    log.rows()
    (line,) = track_record(log.folder, decision_rows(log.folder))
    low, high = line.pop("right_interval")
    assert 0.3 < low < 0.4
    assert high == pytest.approx(1.0)
    assert line.pop("caution").startswith("2 ended so far")
    assert line.pop("hours_saved") == pytest.approx((3600 + 5) / 3600)
    assert line == {
        "policy": "patience", "action": "prune", "decisions": 4, "runs": 2, "ended": 2, "unknown": 0, "right": 2,
        "steps_saved": 20, "share_saved": 0.25, "runs_worse": 0, "groups": 1, "groups_worse": 0, "loss_median": 0.0,
        "loss_worst": 0.0,
    }  # fmt: skip
    assert json.dumps(line, allow_nan=False)


def test_an_empty_store_has_no_record(tmp_path):
    assert track_record(tmp_path / "none", []) == []
