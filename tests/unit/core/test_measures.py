import copy
import itertools
import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.core import band, measures
from smarttuner.core.band import EVERY, SIGMA, WINDOW, BandMeasure
from smarttuner.core.best import Best
from smarttuner.core.measures import (
    BestMeasure,
    BoundsMeasure,
    ImprovementMeasure,
    NotFiniteMeasure,
    PlateauMeasure,
    in_a_row,
)

NUMBERS = st.one_of(
    st.floats(-3, 3, width=16),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1.0, 1e308, -1e308, 5e-324]),
)
COARSE = st.integers(-8, 8).map(lambda n: n / 4)
SERIES = st.one_of(st.lists(NUMBERS, min_size=1, max_size=60), st.lists(COARSE, min_size=1, max_size=60))
FORMS = pytest.mark.parametrize("few", [0, 10**6], ids=["as columns", "one by one"])
GOALS = st.sampled_from(["min", "max"])


def folded(measure, values, start=0, few=measures.FEW):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "FEW", few)
        patch.setattr(band, "FEW", few)
        return measure.fold(np.arange(start, start + len(values)), np.asarray(values, np.float64))


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


@FORMS
@given(SERIES, GOALS, st.sampled_from([0.0, 0.25, 1.0, 1e300]))
@settings(max_examples=300, deadline=None)
def test_best_is_the_comparison_that_the_job_makes(few, values, goal, min_delta):
    columns = folded(BestMeasure(goal, min_delta), values, 0, few)
    best, since = Best(goal, min_delta), 0
    for i, value in enumerate(values):
        since = 0 if best.offer(i, value) else since + 1
        assert columns["since_best"][i] == since
        assert columns["best_step"][i] == (-1 if best.step is None else best.step)
        assert same(columns["best"][i], math.nan if best.best is None else best.best)


def reduce_on_plateau(goal, threshold, threshold_mode, patience, cooldown):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e300)
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, goal, 0.5, patience, threshold, threshold_mode, cooldown, min_lr=0.0, eps=0.0
    )


@FORMS
@given(
    SERIES,
    GOALS,
    st.sampled_from([0.0, 1e-4, 0.1, 0.5]),
    st.sampled_from(["rel", "abs"]),
    st.integers(0, 5),
    st.integers(0, 5),
    st.sets(st.integers(1, 59)),
)
@settings(max_examples=200, deadline=None)
def test_plateau_keeps_the_books_of_torch(few, values, goal, threshold, threshold_mode, patience, cooldown, cuts):
    options = (goal, threshold, threshold_mode, patience, cooldown)
    theirs, ours = reduce_on_plateau(*options), PlateauMeasure(*options)
    edges = [0, *sorted(cut for cut in cuts if cut < len(values)), len(values)]
    for start, end in itertools.pairwise(edges):
        columns = folded(ours, values[start:end], start, few)
        for i, value in enumerate(values[start:end]):
            before = theirs.optimizer.param_groups[0]["lr"]
            theirs.step(value)
            assert columns["fires"][i] == (theirs.optimizer.param_groups[0]["lr"] < before)
            assert columns["bad"][i] == theirs.num_bad_epochs
            assert columns["best"][i] == theirs.best
        state = ours.dump()
        assert (state["bad"], state["cooling"]) == (theirs.num_bad_epochs, theirs.cooldown_counter)


def test_a_relative_threshold_of_one_or_more_is_refused():
    with pytest.raises(ValueError, match="threshold"):
        PlateauMeasure("min", 1.0, "rel", 1, 0)


@given(SERIES, GOALS, st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_improvement_compares_with_the_best_that_many_evaluations_ago(values, goal, window):
    columns = folded(ImprovementMeasure(goal, window), values)
    best, bests = Best(goal), []
    for i, value in enumerate(values):
        best.offer(i, value)
        bests.append(math.nan if best.best is None else best.best)
        assert same(columns["best"][i], bests[i])
        assert same(columns["ago"][i], bests[i - window] if i >= window else math.nan)


@FORMS
@given(st.lists(NUMBERS, min_size=1, max_size=200), GOALS)
@settings(max_examples=100, deadline=None)
def test_the_band_is_median_and_mad_of_the_last_finite_values(few, values, goal):
    width, rise = 4.0, 0.1
    columns = folded(BandMeasure(goal, width, rise), values, 0, few)
    row, sign = 0, 1.0 if goal == "min" else -1.0
    for i, value in enumerate(values):
        drawn = i - i % EVERY
        past = [sign * x for x in values[max(0, drawn - WINDOW) : drawn] if math.isfinite(x)]
        edge = math.nan
        with np.errstate(over="ignore", invalid="ignore"):
            if len(past) >= EVERY:
                low, high = sorted(past)[(len(past) - 1) // 2], sorted(past)[len(past) // 2]
                median = np.float64(low) + (np.float64(high) - low) / 2
                away = np.sort(np.abs(np.asarray(past) - median))
                low, high = away[(len(past) - 1) // 2], away[len(past) // 2]
                reach = max(width * SIGMA * (low + (high - low) / 2), rise * abs(median))
                if reach > 0:
                    edge = sign * (median + reach)
        assert columns["edge"][i] == pytest.approx(edge, rel=1e-12, nan_ok=True)
        edge = columns["edge"][i]
        outside = not math.isfinite(value) or (sign * value > sign * edge)
        row = row + 1 if outside else 0
        assert columns["row"][i] == row


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 5))
def test_rows_count_on_from_before(mask, before):
    count = before
    for is_set, shown in zip(mask, in_a_row(np.asarray(mask), before), strict=True):
        count = count + 1 if is_set else 0
        assert shown == count


def test_bounds_count_from_the_first_point_and_name_the_first_that_fails():
    columns = folded(BoundsMeasure(1.0, 2.0, 2), [9.0, 0.0, 1.5, math.nan, 2.0, 3.0])
    assert columns["fails"].tolist() == [False, False, False, True, False, True]
    assert columns["first"].tolist() == [False, False, False, True, False, False]


MEASURES = [
    BestMeasure("min", 0.1),
    PlateauMeasure("max", 0.01, "rel", 2, 3),
    ImprovementMeasure("min", 3),
    NotFiniteMeasure(),
    BandMeasure("min", 3.0, 0.0),
    BoundsMeasure(-1.0, 1.0, 4),
]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda one: one.key)
@given(values=st.lists(NUMBERS, min_size=2, max_size=200), data=st.data())
@settings(max_examples=60, deadline=None)
def test_cuts_restores_and_saves_change_no_figure(measure, values, data):
    """Whole against cut and saved at each cut; restores fall on the same points in both."""
    restores = data.draw(st.sets(st.integers(1, len(values) - 1), max_size=2))
    cuts = data.draw(st.sets(st.integers(1, len(values) - 1), max_size=20)) | restores

    def run(edges, saves, few):
        one, shown = copy.copy(measure), []
        one.load(START[measure.key])
        for start, end in zip([0, *edges], [*edges, len(values)], strict=True):
            if start in restores:
                one.new_segment()
            columns = folded(one, values[start:end], start, few)
            shown.extend(zip(*(column.tolist() for column in columns.values()), strict=True))
            if saves:
                state = msgspec.msgpack.decode(msgspec.msgpack.encode(one.dump()))
                one.load(START[measure.key])
                one.load(state)
        return repr(shown)

    whole = run(sorted(restores), False, measures.FEW)
    assert run(sorted(cuts), True, 0) == whole
    assert run(sorted(cuts), True, measures.FEW) == whole


START = {one.key: msgspec.msgpack.decode(msgspec.msgpack.encode(one.dump())) for one in MEASURES}


def test_after_a_restore_a_best_stays_and_counts_start_again():
    best = BestMeasure("min")
    folded(best, [3, 1, 2, 2])
    best.new_segment()
    columns = folded(best, [2, 0.5], start=1)
    assert columns["best"].tolist() == [1, 0.5]
    assert columns["best_step"].tolist() == [1, 2]
    assert columns["since_best"].tolist() == [1, 0]
    plateau = PlateauMeasure("min", 0.0, "abs", 2, 5)
    assert folded(plateau, [1, 1, 1, 1])["fires"].tolist() == [False, False, False, True]
    plateau.new_segment()
    assert folded(plateau, [1, 1, 1])["fires"].tolist() == [False, False, True]
    improvement = ImprovementMeasure("min", 2)
    folded(improvement, [3, 1, 2])
    improvement.new_segment()
    columns = folded(improvement, [2, 2, 2])
    assert columns["best"].tolist() == [1, 1, 1]
    assert np.isnan(columns["ago"]).tolist() == [True, True, False]
    odd = NotFiniteMeasure()
    folded(odd, [math.nan, math.inf])
    odd.new_segment()
    columns = folded(odd, [math.nan])
    assert (columns["row"].tolist(), columns["total"].tolist()) == ([1], [3])
    one = BandMeasure("min", 3.0, 0.1)
    folded(one, [1.0] * 20)
    one.new_segment()
    assert np.isnan(folded(one, [9.0] * EVERY)["edge"]).all()
    assert folded(one, [math.nan, math.nan])["row"].tolist() == [1, 2]
    one.new_segment()
    assert folded(one, [math.nan])["row"].tolist() == [1]
