"""Axes hold whatever floats there are, and their ticks are round and told apart."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from smarttuner.consumers.figures.axis import Axis

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS, NUMBERS)
def test_every_pair_of_values_has_an_axis_on_which_both_stand_in_order(first, second):
    low, high = sorted((first, second))
    axis = Axis.over(low, high)
    assert 0.0 <= axis.place(low) <= axis.place(high) <= 1.0
    ticks = axis.ticks()
    values, labels = zip(*ticks, strict=True)
    assert 2 <= len(ticks) <= 7
    assert all(axis.low <= value <= axis.high for value in values)
    assert all(a < b for a, b in itertools.pairwise(values))
    assert len(set(labels)) == len(labels)


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300))
def test_a_logarithmic_axis_too(first, second):
    low, high = sorted((first, second))
    axis = Axis.over(low, high, log=True)
    assert 0.0 <= axis.place(low) <= axis.place(high) <= 1.0
    values = [value for value, _ in axis.ticks()]
    assert values
    assert values == sorted(set(values))
    assert axis.low <= values[0] <= values[-1] <= axis.high


@given(NUMBERS, NUMBERS, st.lists(NUMBERS, min_size=1))
def test_places_are_those_of_each_value(low, high, values):
    assume(low < high)
    axis = Axis.over(low, high)
    assert axis.places(np.array(values)).tolist() == [axis.place(value) for value in values]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 10_000, ["0", "2000", "4000", "6000", "8000", "10000"]),
        (0.0, 1e-7, ["0", "2.0e-08", "4.0e-08", "6.0e-08", "8.0e-08", "1.0e-07"]),
        (99.99, 100.01, ["99.990", "99.995", "100.000", "100.005", "100.010"]),
        (-3, 2, ["-3", "-2", "-1", "0", "1", "2"]),
    ],
)
def test_labels_are_round(low, high, labels):
    assert [label for _, label in Axis.over(low, high, padding=0.0).ticks()] == labels
