"""Values that are still on a device when log() returns, by a stand-in for the copy: no accelerator is needed to test the order."""

from types import SimpleNamespace

import pytest
import torch
from smarttuner.trainer.values import Intake, PinnedCopy, plain, step_of
from smarttuner.trainer.voice import Voice


class OnDevice:
    """A scalar as a CUDA tensor looks to the intake."""

    is_cuda = True

    def __init__(self, number):
        self.number, self.done = number, False

    def numel(self):
        return 1

    def item(self):
        self.done = True
        return self.number


class Copied:
    def __init__(self, tensor):
        self.tensor, self.number = tensor, tensor.number

    def arrived(self):
        return self.tensor.done

    def value(self):
        return self.number


@pytest.fixture
def intake():
    return Intake(Voice(quiet=True), Copied)


def test_values_come_in_the_order_of_their_calls_once_their_copies_have_arrived(intake):
    first, second = OnDevice(1.5), OnDevice(2.5)
    assert intake.numbers({"loss": first, "lr": 0.1}, 1, 10.0) == {"lr": 0.1}
    assert intake.numbers({"loss": second}, 2, 11.0) == {}
    first.number = 99.0  # the job's next step writes into the same tensor
    second.done = True
    assert intake.arrived() == []
    first.done = True
    assert intake.arrived() == [(1, {"loss": 1.5}, 10.0), (2, {"loss": 2.5}, 11.0)]
    assert not intake.in_flight


def test_the_watched_series_is_read_at_once(intake):
    intake.watched = ("val_loss",)
    assert intake.numbers({"val_loss": OnDevice(0.5)}, 1, 1.0) == {"val_loss": 0.5}
    assert not intake.in_flight


def test_what_waits_for_a_device_is_bounded_and_the_end_waits_for_the_rest(intake):
    for step in range(5000):
        intake.numbers({"loss": OnDevice(step)}, step, 1.0)
    assert intake.dropped == 5000 - 4096
    assert [row[0] for row in intake.arrived(wait=True)] == list(range(5000 - 4096, 5000))


def test_a_device_is_not_asked_while_a_graph_is_captured(monkeypatch):
    asked = []
    copy = PinnedCopy.__new__(PinnedCopy)  # a whole one needs a device
    copy._event = SimpleNamespace(query=lambda: asked.append(1) or True)
    for capturing in (True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: capturing)
        assert copy.arrived() is not capturing
    assert asked == [1]


def test_what_is_remembered_of_steps_is_bounded_and_still_finds_repetitions(intake):
    for step in range(2000):
        intake.turn({f"s{step}": 1.0, "loss": 1.0})
        intake.highest = step
        if step % 100 == 0:
            intake.fold()
            assert len(intake._shapes) <= 512 + 100
    intake.advance({"loss": 1.0}, 1500)
    intake.advance({"new": 1.0}, 3)
    assert intake.repeated == 1


def test_steps_and_configs_are_taken_as_far_as_they_make_sense():
    assert [step_of(x) for x in (3, 3.0, True, 3.5, "3", None, 1 << 63, float("nan"))] == [3, 3, 1, None, None, None, None, None]
    cyclic = {}
    cyclic["self"] = cyclic
    assert len(str(plain(cyclic))) < 300
