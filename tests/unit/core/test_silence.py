"""Rhythms: what gaps an attempt makes, and how long it may be silent."""

import msgspec
import pytest
from smarttuner.consumers.policies.stall import Stall
from smarttuner.core.events import MetricChunk, Series
from smarttuner.core.silence import Rhythm, Silence, Watched
from smarttuner.core.window import Subject


def heard(*times, chunks=None):
    """The rhythm of points born at these times, each a message of its own, or `chunks` in a message."""
    rhythm = Rhythm()
    size = chunks or 1
    for i in range(0, len(times), size):
        part = list(times[i : i + size])
        chunk = MetricChunk("r", "a", "sdk", i, [Series("x", list(range(i, i + len(part))), [1.0] * len(part), part)])
        assert rhythm.hear(chunk, part[-1])
    return rhythm


def test_the_third_longest_gap_is_a_habit_and_an_outlier_is_none():
    rhythm = heard(10, 11, 13, 1013, 1015, 1016)
    assert (rhythm.longest, rhythm.usual) == (1000.0, 2.0)
    assert Stall(min_silence_s=60).allows_s(rhythm) == 2000.0, "a gap of less than an hour may come again"
    assert Stall(min_silence_s=60).allows_s(heard(10, 11, 12, 90_012, 90_013)) == 7200.0


def test_an_epoch_of_hours_is_a_habit_from_the_first_on():
    epoch = 3 * 3600.0
    rhythm = Rhythm()
    rhythm.begin(1000.0)
    chunk = MetricChunk("r", "a", "sdk", 0, [Series("x", [0], [1.0], [1000.0 + epoch])])
    rhythm.hear(chunk, 1000.0 + epoch)
    assert Stall().allows_s(rhythm) == 10 * epoch


def test_nothing_is_said_of_a_run_without_a_rhythm():
    assert Stall().allows_s(Rhythm()) == 3600.0, "the first"
    assert Stall().allows_s(heard(5.0)) is None


def test_points_that_come_again_are_no_sign_of_life():
    rhythm = heard(10, 11, 12)
    again = MetricChunk("r", "a", "sdk", 1, [Series("x", [1, 2], [1.0, 1.0], [11.0, 12.0])])
    assert not rhythm.hear(again, 500.0)
    assert (rhythm.heard, rhythm.position, rhythm.gaps) == (12.0, 2, [1.0, 1.0])
    other = MetricChunk("r", "a", "log", 0, [Series("y", [1], [1.0], [12.5])])
    assert rhythm.hear(other, 500.0)
    assert (rhythm.source, rhythm.position) == ("log", 0)


def test_gaps_are_found_inside_what_was_sent_late_in_one_piece():
    assert heard(1, 2, 3, 301, 302, 901, chunks=6).gaps == heard(1, 2, 3, 301, 302, 901).gaps == [599.0, 298.0, 1.0]


def test_a_clock_that_goes_back_makes_no_gap():
    assert heard(100, 101, 50, 102).gaps == [1.0, 1.0]


def test_the_last_position_is_found_in_woven_series():
    rhythm = Rhythm()
    woven = [Series("x", [1, 2], [1.0, 1.0], [1.0, 2.0], [0, 2]), Series("y", [1, 2], [1.0, 1.0], [1.0, 2.0], [1, 3])]
    rhythm.hear(MetricChunk("r", "a", "sdk", 10, woven), 5.0)
    assert rhythm.position == 13


def test_a_gap_that_is_not_the_jobs_own_is_not_learnt():
    rhythm = heard(10, 11)
    rhythm.excused = True
    rhythm.hear(MetricChunk("r", "a", "sdk", 2, [Series("x", [2], [1.0], [9000.0])]), 9000.0)
    rhythm.hear(MetricChunk("r", "a", "sdk", 3, [Series("x", [3], [1.0], [9002.0])]), 9002.0)
    assert rhythm.gaps == [2.0, 1.0]


def test_a_rhythm_survives_being_saved():
    rhythm = heard(10, 11, 15)
    assert msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(rhythm)), Rhythm) == rhythm


@pytest.mark.parametrize(
    ("watched", "end"),
    [
        (None, "; nobody watches its process"),
        (Watched(700, pid=4242, host="gpu7", cpu=0.0), "; pid 4242 on gpu7 is alive, uses no CPU"),
        (Watched(700, pid=7, cpu=3.14), "; pid 7 is alive, uses 3.1 CPU cores"),
        (Watched(700, pid=7, state="waiting for a disk"), "; pid 7 is alive, waiting for a disk"),
    ],
)
def test_the_reason_is_a_sentence_a_person_can_act_on(watched, end):
    rhythm = Rhythm("sdk", 41, heard=1000.0, born=999.0, gaps=[40.0, 2.0, 1.0])
    decision = Stall().at_silence(Silence(Subject("r", "a", "val_loss"), rhythm, 1600.0, 1720.0, watched))
    assert decision.reason == "no metric for 12 min; the longest gap before was 40 s" + end
    assert (decision.action, decision.trigger, decision.time) == ("alert", "sdk:41:1600.000", 1720.0)


def test_what_came_late_onto_the_log_is_silent_since_it_was_born():
    rhythm = Rhythm("sdk", 41, heard=9000.0, born=1800.0, gaps=[1.0])
    assert Silence(Subject("r", "a", "x"), rhythm, 9600.0, 9600.0).lasted_s == 7800.0


def test_details_that_are_none_say_nothing():
    assert Watched.of({"at": 4}) is None
    assert Watched.of({"quiet_s": "long"}) is None
    assert Watched.of({"quiet_s": 3, "more": [1]}) == Watched(3.0)
