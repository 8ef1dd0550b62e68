"""An interrupt (Ctrl-C, a handler's exception) at any line of ours that runs around a step leaves everything as it has to be."""

import sys

import pytest
import torch
from smarttuner.core.intent import LrIntent
from smarttuner.trainer import lr, rates, step_hooks
from smarttuner.trainer.lr import Steering
from smarttuner.trainer.step_hooks import HOOKS

FILES = {module.__file__ for module in (lr, rates, step_hooks)}


class ItsOwn(torch.optim.SGD):
    """Computes its rate in a function, as Adafactor does."""

    def __init__(self, params, lr):
        super().__init__(params, lr=0.1)
        self.param_groups[0]["lr"] = None

    def _get_lr(self, group, state):
        return 0.1

    @torch.optim.Optimizer.profile_hook_step
    def step(self, closure=None):
        closure()


def interrupt_at(line):
    """A trace function that interrupts at the `line`-th line of ours from here on."""
    left = [line]

    def trace(frame, event, _):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    return trace, left


KINDS = {
    "a number": lambda weight: torch.optim.SGD([weight], lr=0.1),
    "a tensor": lambda weight: torch.optim.SGD([weight], lr=torch.tensor(0.1, dtype=torch.float64)),
    "its own": lambda weight: ItsOwn([weight], 0.1),
}


def rate_of(optimizer):
    (group,) = optimizer.param_groups
    return optimizer._get_lr(group, {}) if group["lr"] is None else float(group["lr"])


def step_interrupted(optimizer, line):
    trace, left = interrupt_at(line)
    sys.settrace(trace)
    try:
        optimizer.step(lambda: None)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return left[0] <= 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_jobs_own_rate_is_back_and_what_was_decided_in_force_again(kind):
    line, interrupted, before = 0, True, sys.gettrace()
    while interrupted:
        line += 1
        weight = torch.ones(1, requires_grad=True)
        weight.grad = torch.zeros(1)
        optimizer, used = KINDS[kind](weight), []
        steering = Steering(optimizer)
        HOOKS.add(steering)
        try:
            steering.want(LrIntent(0.5, None, 1))
            interrupted = step_interrupted(optimizer, line)
            assert rate_of(optimizer) == 0.1, line
            for _ in range(2):
                optimizer.step(lambda used=used, optimizer=optimizer: used.append(rate_of(optimizer)))
                assert rate_of(optimizer) == 0.1, line
            assert (used[-1], steering.overwritten) == (0.05, 0), line  # the first may be taken for the one that never ended
        finally:
            HOOKS.remove(steering)
            sys.settrace(before)
    assert line > 20
