"""Optimizers whose rate is more than a number, and steps that are compiled: against a run that was given the rate."""

import pytest
import torch
from smarttuner.core.intent import LrIntent
from smarttuner.trainer.lr import Steering
from smarttuner.trainer.step_hooks import HOOKS

MULTIPLIER, STEPS = 0.25, 4


def transformers_adafactor(**options):
    optimization = pytest.importorskip("transformers.optimization")
    if not hasattr(optimization, "Adafactor"):
        pytest.skip("this transformers has no Adafactor any more")

    def make(parameters, multiplier):
        fixed = options.get("lr") is not None
        made = optimization.Adafactor(parameters, **(options | ({"lr": options["lr"] * multiplier} if fixed else {})))
        if not fixed:
            own = made._get_lr
            made._get_lr = lambda group, state: own(group, state) * multiplier
        return made

    return make


KINDS = {
    "transformers' Adafactor, its own rate": lambda: transformers_adafactor(),
    "transformers' Adafactor, warm-up": lambda: transformers_adafactor(warmup_init=True),
    "transformers' Adafactor, a rate given": lambda: transformers_adafactor(
        lr=0.125, relative_step=False, scale_parameter=False, warmup_init=False
    ),
    "torch's Adafactor": lambda: lambda parameters, multiplier: torch.optim.Adafactor(parameters, lr=0.125 * multiplier),
    "a tensor, fused": lambda: (
        lambda parameters, multiplier: torch.optim.AdamW(parameters, lr=torch.tensor(0.125 * multiplier), fused=True)
    ),
}


def compiled(optimizer):
    return torch.compile(optimizer.step, backend="eager")


COMPILED = {
    "a number": lambda parameters, multiplier: torch.optim.AdamW(parameters, lr=0.125 * multiplier),
    "a tensor": lambda parameters, multiplier: torch.optim.SGD(parameters, lr=torch.tensor(0.125 * multiplier), foreach=False),
    # outside a compiled step torch refuses capturable on a CPU: there is no graph to capture
    "a capturable tensor": lambda parameters, multiplier: torch.optim.Adam(
        parameters, lr=torch.tensor(0.125 * multiplier), capturable=True, foreach=False
    ),
}


def train(make, multiplier, intents, stepping=lambda optimizer: optimizer.step):
    """The weights after each step; before each the intent in force changes to what `intents` holds."""
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(3, 2), torch.randn(8, 3)
    optimizer = make(list(model.parameters()), multiplier)
    steering, step, path = Steering(optimizer), stepping(optimizer), []
    HOOKS.add(steering)
    try:
        for intent in intents:
            steering.want(intent)
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            step()
            path.append([one.detach().clone() for one in model.parameters()])
    finally:
        HOOKS.remove(steering)
    assert HOOKS.failures == 0, HOOKS.last_failure
    return path


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_wanted_rate_is_what_the_optimizer_would_have_computed_from_it(kind):
    make, scaled = KINDS[kind](), LrIntent(MULTIPLIER, None, 1)
    wanted, got = train(make, MULTIPLIER, [LrIntent()] * STEPS), train(make, 1.0, [scaled] * STEPS)
    assert all(same(a, b) for a, b in zip(wanted, got, strict=True))
    assert not same(got[0], train(make, 1.0, [LrIntent()])[0])


@pytest.mark.filterwarnings("ignore")  # dynamo's own
@pytest.mark.parametrize("kind", COMPILED)
def test_a_compiled_step_follows_each_change_of_the_rate(kind):
    make, scaled = COMPILED[kind], LrIntent(MULTIPLIER, None, 1)
    wanted = train(make, MULTIPLIER, [LrIntent()] * STEPS, compiled)
    got = train(make, 1.0, [scaled] * STEPS, compiled)
    assert all(torch.allclose(a, b) for one, other in zip(wanted, got, strict=True) for a, b in zip(one, other, strict=True))
    own = train(make, 1.0, [LrIntent()] * 2, compiled)
    changed = train(make, 1.0, [LrIntent(), scaled], compiled)
    assert same(own[0], changed[0])
    assert not same(own[1], changed[1])
