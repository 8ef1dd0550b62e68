"""A run that ends leaves nothing behind in the training, whenever it ends: its optimizer, its hooks, its memory."""

import gc
import weakref

import pytest
import torch
from smarttuner.trainer.endings import ENDINGS
from smarttuner.trainer.lr import Steering
from smarttuner.trainer.step_hooks import HOOKS
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

HALF = {"intent": {"multiplier": 0.5, "hold": None, "revision": 1}}


def optimizer_of(lr=0.1):
    weight = torch.ones(1, requires_grad=True)
    weight.grad = torch.ones(1)
    return torch.optim.SGD([weight], lr=lr)


@pytest.mark.parametrize("lr", [0.1, "tensor"])
def test_a_run_that_ends_inside_a_step_leaves_the_jobs_own_rate(lr, attach):
    optimizer, saved = optimizer_of(torch.tensor(0.1) if lr == "tensor" else lr), []
    run = attach(optimizer=optimizer)
    run.host.order("scale-lr", **HALF)
    optimizer.step()
    optimizer.step()

    def closure():  # as a handler of SIGTERM does that comes in the middle of a step
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)
        run.finish()
        saved.append(float(optimizer.state_dict()["param_groups"][0]["lr"]))

    optimizer.step(closure)
    assert [*saved, float(optimizer.param_groups[0]["lr"])] == [pytest.approx(0.1)] * 2


@pytest.mark.parametrize("register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook])
def test_a_run_may_end_in_whatever_a_step_calls(register, attach):
    optimizer, steps = optimizer_of(), []
    run = attach(optimizer=optimizer, on_decision=lambda _: run.finish())
    ends = register(lambda *_: run.finish())  # torch goes through its table of hooks, which must stay as it is
    counts = register(lambda *_: steps.append(1))
    run.host.order("scale-lr", **HALF)
    for _ in range(3):
        optimizer.step()
    ends.remove()
    counts.remove()
    assert len(steps) == 3
    attach(optimizer=optimizer).finish()
    assert HOOKS._handles == []


def test_an_optimizer_that_never_called_its_base_class_is_watched_all_the_same(attach):
    class Bare(torch.optim.Optimizer):
        def __init__(self, weights):
            self.param_groups, self.state = [{"params": weights, "lr": 0.1}], {}

        def step(self, closure=None):
            pass

    run = attach(optimizer=Bare([torch.ones(1)]))
    run.log({"a": 1.0}, step=0)
    assert ("a", 0, 1.0) in run.host.read().points


def test_an_attach_that_fails_at_its_end_leaves_no_run_behind(attach, monkeypatch):
    def fails(*_):
        raise RuntimeError("of ours")

    monkeypatch.setattr(Steering, "watch_state", fails)
    run = attach(optimizer=optimizer_of())
    assert run._line is None
    assert (HOOKS.steerings, HOOKS._handles) == ((), [])
    assert not ENDINGS._open


def test_the_handle_of_a_run_that_has_ended_holds_nothing_of_the_training(attach):
    optimizer = optimizer_of()
    run = attach(optimizer=optimizer)
    for step in range(5):
        optimizer.step()
        run.log({"a": 1.0}, step=step)
    run.finish()
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
