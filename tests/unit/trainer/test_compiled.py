"""What is compiled does what Python does: whatever a job calls, in whatever order, the same comes of it."""

import collections
import gc
import itertools
import os
import shutil
import sys
import sysconfig
import threading
import time

import numpy as np
import pytest
import smarttuner
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smarttuner.bus import ring, spool
from smarttuner.bus.spool_layout import WORD_ARMED
from smarttuner.core.intent import LrIntent
from smarttuner.trainer import attach as trainer_attach
from smarttuner.trainer import attachment, calm, opening, step_hooks

BUILT = calm.hooks is not None
WITHOUT = bool(os.environ.get("SMART_TUNER_TEST_PLAIN")) or bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
compiled = pytest.mark.skipif(WITHOUT, reason="this run is about what Python does by itself")
RING_BYTES = 8192
NAN = float("nan")


@compiled
def test_it_is_compiled_where_there_is_a_compiler():
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    assert BUILT or not shutil.which("cc") or not os.path.exists(header), "run: make setup"
    assert (ring.Ring is not ring.PlainRing) == BUILT


class Small(spool.Spool):
    """A spool that comes round after some fifty records."""

    @classmethod
    def create(cls, folder, *rest, **more):
        return super().create(folder, *rest, ring_bytes=RING_BYTES, **more)


class Odd(float):
    """A float that is none to log()."""


class Sgd(torch.optim.SGD):
    """Notes the rates that its steps use; may raise in one."""

    used, fails = (), False

    def step(self, closure=None):
        self.used = (*self.used, *(repr(group["lr"]) for group in self.param_groups))
        if self.fails:
            raise ValueError("of the job's")
        if closure is not None:
            closure()


SHAPES = {
    "two": lambda x: {"a": x, "b": 2.0},
    "one": lambda x: {"a": x},
    "int": lambda x: {"a": 3, "b": x},
    "turned": lambda x: {"b": x, "a": 1.0},
    "equal": lambda x: {"".join(["", "a"]): x, "".join(("b", "")): 1.0},
    "bool": lambda x: {"a": True, "b": x},
    "none": lambda x: {"a": None, "b": x},
    "text": lambda x: {"a": "3", "b": x},
    "numpy": lambda x: {"a": np.float64(x), "b": np.float32(1.5)},
    "tensor": lambda x: {"a": torch.tensor(0.5), "b": x},
    "tensors": lambda x: {"a": torch.tensor(x), "b": torch.tensor([2], dtype=torch.int64)},
    "wide": lambda x: {"a": torch.ones(3), "b": x},
    "truth": lambda x: {"a": torch.tensor(True), "b": x},
    "meta": lambda x: {"a": torch.ones((), device="meta"), "b": x},
    "odd": lambda x: {"a": Odd(2.0), "b": x},
    "huge": lambda x: {"a": 10**400, "b": x},
    "mapping": lambda x: collections.OrderedDict(a=x, b=1.0),
    "empty": lambda x: {},
    "number as a name": lambda x: {1: x, "b": 1.0},
    "of the rates": lambda x: {"lr": x, "b": 1.0},
    "no name": lambda x: {"": x, "b": 1.0},
}
STEPS = st.sampled_from(
    [None, None, "next", "next", "next", "same", "back", 2.0, "x", True, np.int64(10_000), 1 << 62, 1 << 70, -5]
)
FLOATS = st.sampled_from([0.5, 0.25, -0.0, NAN, float("inf"), 1e-320])
ACTS = st.one_of(
    st.tuples(st.just("log"), st.sampled_from(["two", "two", "two", "int", *SHAPES]), FLOATS, STEPS),
    st.tuples(st.just("log often"), st.integers(2, 30)),
    st.tuples(st.just("step"), st.integers(1, 3)),
    st.tuples(st.just("step that raises")),
    st.tuples(st.just("log inside a step")),
    st.tuples(st.just("named step"), st.sampled_from([None, 3, 7.5])),
    st.tuples(st.just("lr"), st.sampled_from([0.1, 0.2, 0.05, 1, None, "tensor"])),
    st.tuples(st.just("schedule"), st.integers(1, 6)),
    st.tuples(st.just("group")),
    st.tuples(
        st.just("want"),
        st.sampled_from([(1.0, None), (0.5, None), (1.0, 0.03), (0.0, None), (0.5, 0.0)]),
        st.sampled_from([0.0, 0.08]),
    ),
    st.tuples(st.just("order"), st.sampled_from(["keep-best", "checkpoint", "scale-lr"])),
    st.tuples(st.just("pass time"), st.sampled_from([0.001, 0.4, 2.0, -3.0])),
    st.tuples(st.just("read")),
    st.tuples(st.just("left"), st.integers(1, 3)),
    st.tuples(st.just("event")),
    st.tuples(st.just("restored"), st.integers(0, 50)),
    st.tuples(st.just("steer")),
)


class Clock:
    """Stands still unless it is told."""

    time = 1e9

    def now(self):
        return self.time

    monotonic = now


class Job:
    """One training, as a list of acts has it."""

    def __init__(self, attach, clock, with_optimizer, with_model):
        self.clock = clock
        self.optimizer = self.sgd() if with_optimizer else None
        model = torch.nn.Linear(1, 1) if with_model else None
        monitored = {"model": model, "monitor": "b", "goal": "min"} if with_model else {}
        self.run = attach(optimizer=self.optimizer, **monitored)
        self.at = self.orders = 0
        self.boundaries = []

    @staticmethod
    def sgd():
        return Sgd([{"params": [torch.zeros(1, requires_grad=True)]}], lr=0.1)

    def act(self, what, *how):
        getattr(self, what.replace(" ", "_"))(*how)
        line = self.run._line
        self.boundaries.append((self.run._calm.steps, line.spool.next_position, line.spool.dropped, line.spool._head))

    def log(self, shape, x, step):
        self.at += step == "next"
        step = {"next": self.at, "same": self.at, "back": self.at - 2}.get(step, step) if isinstance(step, str) else step
        self.run.log(SHAPES[shape](x), step=step)

    def log_often(self, count):
        for number in range(count):
            self.clock.time += 0.01
            self.log("two", float(number), "next")

    def step(self, count):
        for _ in range(count if self.optimizer else 0):
            self.optimizer.step()

    def step_that_raises(self):
        if self.optimizer:
            self.optimizer.fails = True
            with pytest.raises(ValueError, match="of the job's"):
                self.optimizer.step()
            self.optimizer.fails = False

    def log_inside_a_step(self):
        if self.optimizer:
            self.optimizer.step(lambda: self.log("two", 0.125, "next"))

    def named_step(self, step):
        self.run.step(step)

    def lr(self, value):
        for group in self.optimizer.param_groups if self.optimizer else ():
            group["lr"] = torch.tensor(0.3) if value == "tensor" else value if value is None else value * 1.0 if value != 1 else 1

    def schedule(self, count):
        for number in range(count if self.optimizer else 0):
            self.optimizer.step()
            self.optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
            self.log("two", float(number), "next")

    def group(self):
        if self.optimizer and len(self.optimizer.param_groups) < 4:
            self.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})

    def want(self, rate, least):
        for steering in self.run._line.steerings:
            steering.want(LrIntent(*rate, 1), least)

    def order(self, action):
        self.orders += 1
        more = {"intent": {"multiplier": 0.5, "hold": None, "revision": self.orders}} if action == "scale-lr" else {}
        more |= {"series": "a", "goal": "min"} if action == "keep-best" else {}
        if len(self.run._line.spool.orders()) < 3:
            self.run.host.order(action, f"{action}-{self.orders}", **more)

    def pass_time(self, by):
        self.clock.time += by

    def read(self):
        self.run.host.read()

    def left(self, count):
        held = self.run._line.spool
        assert held._lock.acquire(timeout=1)
        held._busy = True
        for number in range(count):
            self.log("two", float(number), "next")
        held._busy = False
        held._lock.release()

    def event(self):
        self.run._event(self.run._line, "restored", step=1, details={})

    def restored(self, step):
        self.run.told_restored(step, {})
        self.at = step

    def steer(self):
        if self.optimizer:
            self.optimizer = self.sgd()
            self.run.steer(optimizer=self.optimizer)

    def seen(self):
        """All that came of it."""
        host, line = self.run.host.read(), self.run._line
        kept = [(one.series, one.step, one.value) for one in line.keep_best._kept.values()]
        told = [(one.id, one.status, one.step, repr(one.before)) for one in host.acks]
        optimizers = [
            (one.optimizer.used, [repr(g.get("lr")) for g in one.optimizer.param_groups], one.overwritten) for one in line.steerings
        ]
        counts = (self.run._intake.repeated, self.run._intake.dropped, self.run._where(), self.run._calm.steps)
        return repr((host.points, told, [one.event for one in host.runs], optimizers, counts, kept, self.boundaries))


def lived(monkeypatch, attach, acts, how, by_python):
    """What came of the acts, and how many calls of log() were taken the usual way."""
    with monkeypatch.context() as patch:
        patch.setattr(opening, "Spool", Small)
        if by_python:
            patch.setattr(attachment, "hooks", None)
            patch.setattr(step_hooks, "hooks", None)
        clock = Clock()
        patch.setattr(trainer_attach, "SystemClock", lambda: clock)
        job = Job(attach, clock, *how)
        assert (job.run._usual is None) == by_python
        taken = 0
        if not by_python:
            usual = job.run._usual

            def counted(*given):
                nonlocal taken
                result = usual(*given)
                taken += result > 0
                return result

            job.run._usual = counted
        try:
            for act in acts:
                job.act(*act)
            assert job.run.failures == 0
            return job.seen(), taken
        finally:
            job.run.end("failed", "over")


@compiled
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(acts=st.lists(ACTS, max_size=40), with_optimizer=st.booleans(), with_model=st.booleans())
def test_whatever_a_job_does_the_same_comes_of_it(monkeypatch, state, host_of, acts, with_optimizer, with_model):
    def attach(**options):
        run = smarttuner.attach("r", **options)
        run.host = host_of(run._line.spool.path)
        return run

    how = (with_optimizer, with_model)
    by_python, _ = lived(monkeypatch, attach, acts, how, True)
    shutil.rmtree(state)
    assert lived(monkeypatch, attach, acts, how, False)[0] == by_python
    shutil.rmtree(state)


@pytest.fixture
def counting(attach):
    """attach(), and how many calls of log() are taken the usual way."""

    def attached(**options):
        run, taken = attach(**options), []
        usual = run._usual

        def counted(*given):
            result = usual(*given)
            taken.extend([1] if result else [])
            return result

        run._usual = counted
        return run, taken

    return attached


def optimizer_of(groups=1, lr=0.1):
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(groups)], lr=lr)


@compiled
@pytest.mark.parametrize(
    "values",
    [
        lambda x: {"loss": x, "norm": 1.0},
        lambda x: {"loss": x, "epoch": 3},
        lambda x: {"loss": x} | {f"s{i}": x for i in range(200)},
        lambda x: {"loss": torch.tensor(x, requires_grad=True), "norm": torch.tensor([3])},
        lambda x: {"loss": np.float64(x), "norm": np.float32(x)},
    ],
    ids=["floats", "an int", "many", "tensors", "numpy"],
)
@pytest.mark.parametrize(
    "options", [{}, {"mode": "observe"}, {"optimizer": 1}, {"optimizer": 3}], ids=["act", "observe", "optimizer", "groups"]
)
def test_the_calls_of_an_ordinary_job_are_taken_the_usual_way(counting, values, options):
    if "optimizer" in options:
        options = {"optimizer": optimizer_of(options["optimizer"])}
    run, taken = counting(**options)
    for step in range(20):
        if "optimizer" in options:
            options["optimizer"].step()
        run.log(values(float(step)), step=step) if step % 2 else run.log(values(float(step)))
    assert len(taken) >= 16
    points = run.host.read().points
    assert [(step, value) for name, step, value in points if name == "loss"] == [(step, float(step)) for step in range(20)]


@compiled
def test_a_rate_that_changes_at_every_step_is_told_the_usual_way(counting):
    optimizer = optimizer_of()
    run, taken = counting(optimizer=optimizer)
    run._line.steerings[0].want(LrIntent(0.5, None, 1))
    for step in range(20):
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.1 / (2 + step)
        run.log({"loss": 1.0}, step=step)
    assert len(taken) >= 16
    points = run.host.read().points
    assert [value for name, _, value in points if name == "lr_effective"] == [0.5 * 0.1 / (2 + step) for step in range(20)]


@compiled
def test_names_that_alternate_are_not_waited_for(counting, monkeypatch):
    run, taken = counting()
    waited = []
    monkeypatch.setattr(attachment, "expect", lambda *_: waited.append(1))
    for step in range(20):
        run.log({"loss": 1.0}, step=2 * step)
        run.log({"accuracy": 1.0}, step=2 * step + 1)
    assert not taken
    assert not waited


@compiled
def test_best_weights_by_a_series_that_comes_seldom_leave_the_other_calls_usual(counting):
    model = torch.nn.Linear(1, 1)
    run, taken = counting(optimizer=optimizer_of(), model=model, monitor="val_loss", goal="min")
    for step in range(20):
        run.log({"loss": 1.0}, step=step)
        if step % 10 == 5:
            run.log({"val_loss": 1.0 / step}, step=step)
    assert len(taken) >= 12
    assert run._line.keep_best._kept["val_loss"].step == 15


@compiled
@pytest.mark.parametrize("with_optimizer", [False, True], ids=["at log()", "at the optimizer's step"])
def test_an_order_is_found_between_usual_calls(counting, with_optimizer):
    optimizer = optimizer_of() if with_optimizer else None
    run, taken = counting(optimizer=optimizer)
    for step in range(12):
        if step == 7:
            run.host.order("prune", "end")
        if optimizer:
            optimizer.step()
        run.log({"loss": 1.0}, step=step)
        assert run.should_stop == (step >= 7)
    assert len(taken) >= 5
    assert run.host.answers() == {"end": ("applied", "")}


@compiled
def test_the_bell_rings_in_a_usual_call_too(counting):
    run, _ = counting()
    rung = []
    run._line.bell.ring = lambda: rung.append(run._logged)
    for step in range(8):
        run._line.spool.words[WORD_ARMED] = step in (1, 6)
        run.log({"loss": 1.0}, step=step)
    assert len(rung) == 2
    assert run._line.spool.words[WORD_ARMED] == 0


@compiled
def test_threads_that_log_lose_and_mix_nothing_in_usual_calls_or_others(counting):
    run, taken = counting()
    each, steps, in_order = 3000, itertools.count(), threading.Lock()
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def rising(number):
        for turn in range(each):
            with in_order:
                run.log({"thread": number, "turn": float(turn)}, step=next(steps))

    def odd(number):
        for turn in range(each // 10):
            run.log({"thread": number, "turn": float(turn)}, step=-1 - turn)
            time.sleep(0.0002)

    try:
        workers = [threading.Thread(target=rising if number < 2.0 else odd, args=(number,)) for number in (0.0, 1.0, 2.0, 3.0)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            run.host.read()
    finally:
        sys.setswitchinterval(switching)
    points = run.host.read().points
    assert run._line.spool.dropped == 0
    assert [name for name, _, _ in points] == ["thread", "turn"] * (len(points) // 2)
    turns = collections.defaultdict(list)
    for (_, _, number), (_, _, turn) in zip(points[::2], points[1::2], strict=True):
        turns[number].append(turn)
    assert {number: len(found) for number, found in turns.items()} == {0.0: each, 1.0: each, 2.0: each // 10, 3.0: each // 10}
    assert all(found == sorted(found) for found in turns.values())
    assert len(taken) > 100


@compiled
def test_a_tensor_whose_number_lets_another_thread_log_mixes_nothing(counting, monkeypatch):
    run, taken = counting()
    number_of, turn = torch.Tensor.item, []

    def item(tensor):
        if not turn:  # while this call waits for its number, another one comes, which has its own
            turn.append(1)
            other = threading.Thread(target=run.log, args=({"a": 7.0, "b": torch.tensor(8.0)},), kwargs={"step": 9})
            other.start()
            other.join()
        return number_of(tensor)

    for step in range(5):
        run.log({"a": 1.0, "b": torch.tensor(2.0)}, step=step)
    assert taken
    monkeypatch.setattr(torch.Tensor, "item", item)
    run.log({"a": 5.0, "b": torch.tensor(6.0)}, step=10)
    assert turn
    assert run.host.read().points[-4:] == [("a", 9, 7.0), ("b", 9, 8.0), ("a", 10, 5.0), ("b", 10, 6.0)]


@compiled
def test_what_the_calls_are_given_is_let_go(counting):
    optimizer = optimizer_of()
    run, _ = counting(optimizer=optimizer)
    steering = run._line.steerings[0]
    steering.want(LrIntent(0.5, None, 1))

    def steps(count, first):
        for step in range(first, first + count):
            optimizer.param_groups[0]["lr"] = 0.1 / (2 + step)
            optimizer.step()
            run.log({"loss": 1.0 + step}, step=step)

    def held():
        gc.collect()
        group = optimizer.param_groups[0]
        return [sys.getrefcount(one) for one in (optimizer, group, optimizer.param_groups, steering, run._calm, run._line.spool)]

    steps(5, 0)
    before = held()
    blocks = sys.getallocatedblocks()  # not gc.get_objects(): that breaks tuples which other threads are making (bpo-15108)
    steps(2_000, 5)
    assert held() == before
    assert sys.getallocatedblocks() - blocks < 500  # less than one for each fourth step


@compiled
def test_an_interrupt_in_code_of_the_jobs_that_a_usual_call_runs_goes_on(counting):
    class Optimizer(torch.optim.SGD):
        interrupts = False

        @property
        def param_groups(self):
            if self.interrupts:
                raise KeyboardInterrupt
            return self.__dict__["groups"]

        @param_groups.setter
        def param_groups(self, groups):
            self.__dict__["groups"] = groups

    optimizer = Optimizer([torch.zeros(1, requires_grad=True)], lr=0.1)
    run, taken = counting(optimizer=optimizer)
    for step in range(5):
        run.log({"a": 1.0}, step=step)
    assert taken
    optimizer.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        run.log({"a": 1.0}, step=5)
    optimizer.interrupts = False
    run.log({"a": 1.0}, step=6)
    assert [step for name, step, _ in run.host.read().points if name == "a"] == [0, 1, 2, 3, 4, 6]
