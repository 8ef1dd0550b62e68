"""A learning rate decision is in force at every later step, whoever owns the rate: against a run that was given that rate."""

import copy

import pytest
import torch
from smarttuner.core.intent import LrIntent
from smarttuner.trainer.step_hooks import HOOKS
from torch.optim import lr_scheduler as sched

STEPS, SAVED, RESUMED = 16, 6, 9
DECISIONS = {2: ("scaled", 0.25, "d"), 4: ("scaled", 0.5, None), 7: ("held", 0.03, "d"), 12: ("released", None, None)}
"""What is decided before a step (a change, its number, the optimizer it is about) takes effect after it."""
POISONED = (3, 5, 10)


def sequential(optimizer):
    parts = [sched.ConstantLR(optimizer, 0.5, 3), sched.ExponentialLR(optimizer, 0.9)]
    return sched.SequentialLR(optimizer, parts, [4])


class Manual:
    """A script that writes the rate itself."""

    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0

    def step(self):
        self.steps += 1
        self.optimizer.param_groups[0]["lr"] = 0.1 / (self.steps + 1)

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


OWNERS = {
    "none": lambda o: None,
    "manual": Manual,
    "lambda": lambda o: sched.LambdaLR(o, lambda n: 1 / (n + 1)),
    "step": lambda o: sched.StepLR(o, 3, 0.5),
    "exponential": lambda o: sched.ExponentialLR(o, 0.9),
    "multistep": lambda o: sched.MultiStepLR(o, [3, 8], 0.3),
    "cosine": lambda o: sched.CosineAnnealingLR(o, 12),
    "warm restarts": lambda o: sched.CosineAnnealingWarmRestarts(o, 4),
    "onecycle": lambda o: sched.OneCycleLR(o, 0.2, total_steps=20),
    "cyclic": lambda o: sched.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "linear": lambda o: sched.LinearLR(o, 0.1, total_iters=8),
    "polynomial": lambda o: sched.PolynomialLR(o, 12, 2.0),
    "constant": lambda o: sched.ConstantLR(o, 0.3, 5),
    "sequential": sequential,
    "plateau": lambda o: sched.ReduceLROnPlateau(o, patience=1, factor=0.5, threshold=0.3),
}
WAYS = ("plain", "amp", "accumulation", "two optimizers", "resumed")


class Given(torch.optim.SGD):
    """The reference: a run that was given the wanted rate, in the step alone."""

    name, intent, taken = "d", LrIntent(), 0

    @torch.no_grad()
    def step(self, closure=None):
        own = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            rate = self.intent.rate(self.name, "0")
            group["lr"] = group["lr"] * rate.multiplier if rate.hold is None else rate.hold
        super().step()
        for group, lr in zip(self.param_groups, own, strict=True):
            group["lr"] = lr
        self.taken += 1


class Run:
    """One training of one or two optimizers; `path` holds weights and own rates after each step."""

    def __init__(self, owner, way, kind):
        self.owner, self.way = owner, way
        self.path, self.saved = [], []
        self.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=4)
        self.build(kind, ("g", "d") if way == "two optimizers" else ("d",))

    def build(self, kind, names):
        torch.manual_seed(0)
        self.models = [torch.nn.Linear(3, 1, bias=False) for _ in names]
        self.optimizers = {n: kind(m.parameters(), lr=0.1, momentum=0.9) for n, m in zip(names, self.models, strict=True)}
        self.schedules = [OWNERS[self.owner](one) for one in self.optimizers.values()]

    def state(self):
        parts = [*self.models, *self.optimizers.values(), *filter(None, self.schedules)]
        return copy.deepcopy([one.state_dict() for one in parts])

    def resume(self, kind):
        state = self.state()
        self.build(kind, tuple(self.optimizers))
        parts = [*self.models, *self.optimizers.values(), *filter(None, self.schedules)]
        for part, one in zip(parts, state, strict=True):
            part.load_state_dict(one)

    def step(self, number):
        """One step of each optimizer; skipped by the scaler where the gradients are not finite."""
        generator = torch.Generator().manual_seed(number)
        micro = 2 if self.way == "accumulation" else 1
        for model, optimizer, schedule in zip(self.models, self.optimizers.values(), self.schedules, strict=True):
            optimizer.zero_grad()
            for _ in range(micro):
                loss = model(torch.randn(4, 3, generator=generator)).square().mean() / micro
                if self.way == "amp":
                    self.scaler.scale(loss * float("inf") if number in POISONED else loss).backward()
                else:
                    loss.backward()
            if self.way == "amp":
                self.scaler.step(optimizer)
                self.scaler.update()
            else:
                optimizer.step()
            if schedule is not None:
                schedule.step(*([loss.item()] if isinstance(schedule, sched.ReduceLROnPlateau) else []))
        if number == SAVED:
            self.saved = [one.state_dict() for one in self.optimizers.values()]
        rates = [one.param_groups[0]["lr"] for one in self.optimizers.values()]
        self.path.append((rates, [model.weight.detach().clone() for model in self.models]))


def changed(intent, decision):
    action, number, of = decision
    return intent.released(of) if action == "released" else getattr(intent, action)(number, of)


def reference(owner, way):
    run, waiting = Run(owner, way, Given), None
    for number in range(STEPS):
        if number == RESUMED and way == "resumed":
            intent = run.optimizers["d"].intent
            run.resume(Given)
            run.optimizers["d"].intent = intent
        for name, one in run.optimizers.items():
            one.name, one.taken = name, 0
        if number in DECISIONS:
            waiting = changed(waiting or run.optimizers["d"].intent, DECISIONS[number])
        run.step(number)
        if waiting is not None and all(one.taken for one in run.optimizers.values()):
            for one in run.optimizers.values():
                one.intent = waiting
            waiting = None
    return run


def steered(owner, way, attach):
    run, intent = Run(owner, way, torch.optim.SGD), LrIntent()
    attached = attach("r", optimizer=run.optimizers)
    for number in range(STEPS):
        if number == RESUMED and way == "resumed":
            attached.finish()
            run.resume(torch.optim.SGD)
            attached = attach("r", optimizer=run.optimizers, resume_from_step=number - 1)
        if number in DECISIONS:
            intent = changed(intent, DECISIONS[number])
            attached.host.order(("scale-lr", "set-lr", "release-lr")[("scaled", "held", "released").index(DECISIONS[number][0])],
                                intent=intent.plain(), optimizer=DECISIONS[number][2])  # fmt: skip
        run.step(number)
    assert {ack.status for ack in attached.host.read().acks} == {"applied"}
    return run


@pytest.mark.filterwarnings(
    "ignore:Detected call of:UserWarning", "ignore:.*epoch parameter:UserWarning"
)  # torch's, of skipped steps
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("owner", OWNERS)
def test_a_decision_is_in_force_at_every_later_step_and_seen_by_nobody_else(owner, way, attach):
    expected, got = reference(owner, way), steered(owner, way, attach)
    for step, ((own, weights), (owned, reached)) in enumerate(zip(expected.path, got.path, strict=True)):
        assert owned == own, step
        assert all(torch.equal(a, b) for a, b in zip(weights, reached, strict=True)), step
    assert [one["param_groups"][0]["lr"] for one in got.saved] == expected.path[SAVED][0]
    assert not torch.equal(got.path[3][1][-1], got.path[2][1][-1]) or way == "amp"
    assert HOOKS.failures == 0, HOOKS.last_failure


def test_the_reference_is_no_run_of_the_users_own_rate():
    given, plain = reference("cosine", "plain"), Run("cosine", "plain", torch.optim.SGD)
    for number in range(STEPS):
        plain.step(number)
    assert torch.equal(given.path[2][1][0], plain.path[2][1][0])
    assert not torch.equal(given.path[3][1][0], plain.path[3][1][0])
    assert given.path[-1][0] == plain.path[-1][0]
