"""What a signal's handler of the job's raises while code of ours runs reaches the training, as if nobody watched."""

import functools
import os
import signal
import sys

import pytest
import torch
from smarttuner.bus.doorbell import Doorbell
from smarttuner.bus.spool import Spool
from smarttuner.trainer.attachment import Attachment
from smarttuner.trainer.calm import compiled
from smarttuner.trainer.raised import described, exited, let_through, of_handler
from smarttuner.trainer.rates import Placed


class Preempted(Exception):
    """Of the job's own."""


def preempted(number, frame):
    raise Preempted(number)


@pytest.fixture
def warned(request):
    """Sends the signal whose handler raises Preempted."""
    before = signal.signal(signal.SIGUSR1, getattr(request, "param", preempted))
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


HALF = {"intent": {"multiplier": 0.5, "hold": None, "revision": 1}}


class Job:
    """What is the job's: one optimizer, functions of its own, a call of `interrupt` wherever `at` says."""

    def __init__(self, attach, interrupt, at):
        self._attach, self._interrupt, self._at = attach, interrupt, at
        self.optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
        self.model = torch.nn.Linear(1, 1)

    def at(self, place):
        if self._at == place:
            self._at = None
            self._interrupt()

    def before(self, monkeypatch, of, name, place):
        """The signal comes just before `of.name`, called by code of ours."""
        function = getattr(of, name)

        @functools.wraps(function)
        def called(*given, **more):
            self.at(place)
            return function(*given, **more)

        monkeypatch.setattr(of, name, called)

    def attached(self, **options):
        return self._attach(
            optimizer=self.optimizer, model=self.model, mode="act", allow=("lr", "checkpoint", "restore", "prune"), **options
        )

    def steps(self, run, first, count=3):
        for step in range(first, first + count):
            self.optimizer.step()
            run.log({"a": float(step)}, step=step)


PLACES = {
    "log": (Spool, "log", None),
    "the hook before a step": (Placed, "tensor", None),
    "the control page": (Spool, "answered", ("scale-lr", HALF)),
    "torch.save": (torch, "save", ("checkpoint", {})),
    "fsync": (os, "fsync", ("checkpoint", {})),
    "the job's own save": (None, None, ("checkpoint", {})),
    "on_decision": (None, None, ("scale-lr", HALF)),
}


def interrupted(number, frame):
    raise KeyboardInterrupt


@pytest.mark.parametrize("warned", [preempted, interrupted], indirect=True)
@pytest.mark.parametrize("place", PLACES)
def test_it_is_raised_out_of_whatever_of_ours_it_interrupts(place, attach, warned, monkeypatch):
    of, name, order = PLACES[place]
    job = Job(attach, warned, None)
    options = {"on_decision": lambda _: job.at("on_decision")}
    if place == "the job's own save":
        options |= {"checkpoint": lambda path: job.at(place), "restore": lambda path: None}
    run = job.attached(**options)
    if place == "the hook before a step":
        job.optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
        run.host.order("scale-lr", **HALF)
    job.steps(run, 0)
    if of is not None:
        job.before(monkeypatch, of, name, place)
    if order is not None:
        run.host.order(order[0], "interrupted", **order[1])
    run._unusual()  # the usual way calls none of these
    job._at = place
    with pytest.raises((Preempted, KeyboardInterrupt)):
        job.steps(run, 3)
    assert job._at is None
    job.steps(run, 6)
    assert (run.failures, run._stop) == (0, None)
    assert {("a", step, float(step)) for step in (0, 1, 2, 6, 7, 8)} <= set(run.host.read().points)
    if order is not None:
        answered = run.host.answers()["interrupted"]
        assert answered == (("failed", "interrupted") if order[0] == "checkpoint" else ("applied", ""))


def test_it_is_raised_out_of_attach_and_nothing_stays_behind(attach, warned, monkeypatch, state):
    job = Job(attach, warned, "attach")
    job.before(monkeypatch, os, "posix_fallocate", "attach")
    with pytest.raises(Preempted):
        job.attached()
    assert not list((state / "spool").glob("*.spool"))
    run = job.attached()
    job.steps(run, 0)
    assert len(run.host.read().points) > 3


def test_it_is_raised_out_of_the_wait_at_the_end(attach, warned, monkeypatch):
    job = Job(attach, warned, "end")
    run = job.attached()
    job.steps(run, 0)
    job.before(monkeypatch, Doorbell, "close", "end")
    with pytest.raises(Preempted):
        run.finish()
    run.log({"a": 1.0})
    run.finish()
    assert run.failures == 0


@pytest.mark.parametrize("plain", [False, pytest.param(True, marks=pytest.mark.skipif(not compiled(), reason="it is plain"))])
def test_it_is_raised_out_of_code_of_the_jobs_that_log_runs(attach, warned, plain):
    class Optimizer(torch.optim.SGD):
        interrupts = False

        @property
        def param_groups(self):
            if self.interrupts:
                self.interrupts = False
                warned()
            return self.__dict__["groups"]

        @param_groups.setter
        def param_groups(self, groups):
            self.__dict__["groups"] = groups

    optimizer = Optimizer([torch.zeros(1, requires_grad=True)], lr=0.1)
    run = attach(optimizer=optimizer)
    if plain:
        run._usual = None
    for step in range(5):
        run.log({"a": 1.0}, step=step)
    optimizer.interrupts = True
    with pytest.raises(Preempted):
        run.log({"a": 1.0}, step=5)
    optimizer.interrupts = True
    with pytest.raises(Preempted):
        optimizer.step()
    run.log({"a": 1.0}, step=6)
    assert run.failures == 0
    assert [step for name, step, _ in run.host.read().points if name == "a"] == [0, 1, 2, 3, 4, 6]


def test_a_number_of_the_jobs_that_is_interrupted_is_not_a_dropped_value(attach, warned):
    class Number:
        def __float__(self):
            warned()
            return 1.0

    run = attach()
    with pytest.raises(Preempted):
        run.log({"a": Number()}, step=1)
    assert run._intake.dropped == 0


def test_a_word_on_stderr_is_interrupted_like_anything_else(attach, warned, monkeypatch):
    class Screen:
        def write(self, text):
            if "no number" in text:
                warned()

        def flush(self):
            pass

    run = attach()
    monkeypatch.setattr(sys, "stderr", Screen())
    with pytest.raises(Preempted):
        run.log({"a": "text"}, step=1)


def test_a_stderr_of_the_jobs_that_fails_harms_nothing(attach, monkeypatch):
    class Screen:
        def write(self, text):
            raise RuntimeError("no screen")

    run = attach()
    monkeypatch.setattr(sys, "stderr", Screen())
    run.log({"a": "text", "b": 1.0}, step=1)
    assert run.failures == 0
    assert run.host.read().points == [("b", 1, 1.0)]


class Called:
    def __call__(self, number, frame):
        raise Preempted(number)

    def method(self, number, frame):
        raise Preempted(number)


HANDLERS = {
    "a function": preempted,
    "a method": Called().method,
    "an object": Called(),
    "one of any arguments": lambda *given: preempted(*given),
    "a partial": functools.partial(lambda word, number, frame: preempted(number, frame), "word"),
}


def wrapped(cause, interrupt):
    try:
        interrupt()
    except Preempted as error:
        if cause:
            raise OSError("while it was saved") from error
        raise OSError("while it was cleaned up")  # as a finally or an __exit__ that fails


def found_in(way, warned):
    try:
        way(warned)
    except Exception as error:
        found = of_handler(error)
        with pytest.raises(Preempted):
            let_through(error)
        return found


@pytest.mark.parametrize("way", [lambda go: go(), functools.partial(wrapped, True), functools.partial(wrapped, False)])
@pytest.mark.parametrize("warned", HANDLERS.values(), indirect=True, ids=HANDLERS)
def test_any_handler_is_known_by_what_it_is_called_with_and_found_behind_what_came_of_it(warned, way):
    assert type(found_in(way, warned)) is Preempted


def test_what_the_job_caught_before_is_not_raised_again(warned):
    def ours():
        try:
            raise OSError("of ours")
        except OSError as error:
            return of_handler(error)

    try:
        warned()
    except Preempted:
        assert ours() is None


def test_an_error_of_ours_is_none(attach, monkeypatch):
    def fails(self, *_):
        frame = sys._getframe(1)
        assert frame is not None
        raise ValueError("a fault of ours")

    run = attach()
    monkeypatch.setattr(Attachment, "_numbers", fails)
    run.log({"a": 1}, step=1)
    assert run.failures == 1
    run.failures = 0


def test_an_exception_that_is_asked_for_no_truth_is_looked_behind_all_the_same():
    class Several(Exception):
        def __bool__(self):
            raise RuntimeError

    def ours():
        try:
            raise Several
        except Several as cause:
            raise OSError from cause

    with pytest.raises(OSError) as caught:
        ours()
    assert of_handler(caught.value) is None


def test_an_exception_that_cannot_say_what_it_is_is_told_by_its_name():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert described(Mute()) == "Mute: <its str() failed>"
    assert exited(Mute()) == "exit code 1: <its str() failed>"
    assert (described(ValueError()), described(ValueError("one\ntwo"))) == ("ValueError", "ValueError: one")
