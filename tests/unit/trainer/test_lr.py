"""The learning rate around real torch optimizers: what is in force while they step, and what is seen at other times."""

import gc
import weakref

import pytest
import torch
from smarttuner.core.intent import LrIntent, LrPart
from smarttuner.trainer.lr import HOOKS, Steering
from torch.optim import lr_scheduler as sched


@pytest.fixture
def steer():
    made = []

    def make(optimizer, boundary=None):
        steering = Steering(optimizer, boundary)
        HOOKS.add(steering)
        made.append(steering)
        return steering

    yield make
    for one in made:
        HOOKS.remove(one)
    assert HOOKS.failures == 0, HOOKS.last_failure


def model_of(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 1, bias=False)


def train(model, optimizer, schedule=None, steps=12, at=None, change=None):
    """The weights after every step; `change()` is called before step `at`."""
    torch.manual_seed(1)
    path = []
    for step in range(steps):
        if step == at:
            change()
        optimizer.zero_grad()
        loss = model(torch.randn(4, 3)).square().mean()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule(loss.item(), step)
        path.append(model.weight.detach().clone())
    return path


def manual(optimizer):
    def write(loss, step):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)

    return write


def stepping(make):
    def build(optimizer):
        schedule = make(optimizer)
        takes_loss = isinstance(schedule, sched.ReduceLROnPlateau)
        return lambda loss, step: schedule.step(loss) if takes_loss else schedule.step()

    return build


OWNERS = {
    "none": lambda optimizer: None,
    "manual": manual,
    "step": stepping(lambda o: sched.StepLR(o, 3, 0.5)),
    "exponential": stepping(lambda o: sched.ExponentialLR(o, 0.9)),
    "lambda": stepping(lambda o: sched.LambdaLR(o, lambda n: 1 / (n + 1))),
    "cosine": stepping(lambda o: sched.CosineAnnealingLR(o, 12)),
    "onecycle": stepping(lambda o: sched.OneCycleLR(o, 0.2, total_steps=20)),
    "cyclic": stepping(lambda o: sched.CyclicLR(o, 0.01, 0.1, step_size_up=3)),
    "plateau": stepping(lambda o: sched.ReduceLROnPlateau(o, patience=1, factor=0.5)),
}


class Scaled(torch.optim.SGD):
    """The reference: an optimizer that multiplies its learning rate itself, after the schedule, in the step alone."""

    factor = 1.0

    def step(self, closure=None):
        own = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = group["lr"] * self.factor
        super().step()
        for group, lr in zip(self.param_groups, own, strict=True):
            group["lr"] = lr


@pytest.mark.parametrize("owner", OWNERS)
def test_a_multiplier_changes_the_steps_and_nothing_the_owner_of_the_rate_sees(owner, steer):
    reference, model = model_of(), model_of()
    wanted = Scaled(reference.parameters(), lr=0.1, momentum=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steering = steer(optimizer)

    def both(one, schedule, change):
        rates = []
        schedule = schedule(one)

        def after(loss, step):
            if schedule is not None:
                schedule(loss, step)
            rates.append(one.param_groups[0]["lr"])

        return train(reference if one is wanted else model, one, after, at=5, change=change), rates

    expected = both(wanted, OWNERS[owner], lambda: setattr(wanted, "factor", 0.25))
    got = both(optimizer, OWNERS[owner], lambda: steering.want(LrIntent(0.25, None, 1)))
    assert got[1] == expected[1]
    assert all(torch.equal(a, b) for a, b in zip(got[0], expected[0], strict=True))


def test_a_hold_stands_against_the_schedule_until_it_is_released(steer):
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = sched.ExponentialLR(optimizer, 0.5)
    steering = steer(optimizer)
    deltas = []
    for step in range(6):
        if step == 2:
            steering.want(LrIntent().held(0.03))
        if step == 4:
            steering.want(steering.intent.released())
        before = model.weight.detach().clone()
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        schedule.step()
        deltas.append(round(float((before - model.weight.detach()).mean()), 6))
    assert deltas == [1.0, 0.5, 0.03, 0.03, 0.0625, 0.03125]


def test_the_rate_is_never_below_min_lr_nor_raised_to_it(steer):
    optimizer = torch.optim.SGD(model_of().parameters(), lr=0.1)
    steering = steer(optimizer)
    steering.want(LrIntent(0.01, None, 1), min_lr=0.05)
    assert steering.effective() == [0.05]
    optimizer.param_groups[0]["lr"] = 0.02  # the schedule itself is below: min_lr is no reason to raise it
    assert steering.effective() == [0.02]


def test_the_very_object_is_put_back(steer):
    optimizer = torch.optim.SGD(model_of().parameters(), lr=0.1)
    own = optimizer.param_groups[0]["lr"] = float("0.1")
    seen = []
    optimizer.register_step_pre_hook(lambda o, a, k: seen.append(o.param_groups[0]["lr"]))
    steer(optimizer).want(LrIntent(0.3, None, 1))
    optimizer.step()
    assert seen == [0.1 * 0.3]
    assert optimizer.param_groups[0]["lr"] is own


@pytest.mark.parametrize(
    ("intent", "used"), [(LrIntent(0.5, None, 1), 0.05), (LrIntent(1.0, 0.3, 1), 0.3), (LrIntent(0.1, None, 1), 0.02)]
)
def test_a_tensor_rate_is_changed_in_place_once_and_put_back_bit_for_bit(intent, used, steer):
    models = [model_of(), model_of(1)]
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([{"params": m.parameters(), "lr": rate} for m in models], lr=rate, capturable=False, foreach=False)
    seen = []
    optimizer.register_step_pre_hook(lambda o, a, k: seen.append([float(g["lr"]) for g in o.param_groups]))
    objects = [group["lr"] for group in optimizer.param_groups]
    own = [lr.clone() for lr in objects]
    steer(optimizer).want(intent, min_lr=0.02)
    for model in models:
        model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    assert seen == [pytest.approx([used, used])]
    assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, objects, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(objects, own, strict=True))


def test_a_step_that_raises_leaves_no_foreign_rate_behind(steer):
    optimizer = torch.optim.SGD(model_of().parameters(), lr=0.1)
    boundaries = []
    steering = steer(optimizer, lambda: boundaries.append(1))
    steering.want(LrIntent(0.5, None, 1))

    def closure():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(closure)
    assert steering.own() == [0.1]  # asked at any later moment
    assert optimizer.param_groups[0]["lr"] == 0.1
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(closure)
    optimizer.step()  # or at the next step
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert boundaries == [1]


def test_asking_from_inside_a_closure_does_not_end_the_override(steer):
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steering = steer(optimizer)
    steering.want(LrIntent(0.5, None, 1))

    def closure():
        assert steering.first() is None
        steering.settle()
        model.weight.grad = torch.ones_like(model.weight)
        return 0.0

    before = model.weight.detach().clone()
    optimizer.step(closure)
    assert torch.allclose(before - model.weight, torch.tensor(0.05))


class Lookahead(torch.optim.Optimizer):
    """Wraps an optimizer and shares its groups, as the one of the paper does."""

    def __init__(self, base):
        self.base = base
        super().__init__(base.param_groups, base.defaults)
        self.param_groups = base.param_groups

    def step(self, closure=None):
        return self.base.step(closure)


@pytest.mark.parametrize("given", ["wrapper", "base", "subclass"])
def test_shared_groups_are_scaled_once_and_make_one_boundary(given, steer):
    model = model_of()
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)  # the plain class is hooked too
    base = Scaled(model.parameters(), lr=0.1) if given == "subclass" else torch.optim.SGD(model.parameters(), lr=0.1)
    outer = base if given == "subclass" else Lookahead(base)
    boundaries = []
    steer(outer if given == "wrapper" else base, lambda: boundaries.append(1)).want(LrIntent(0.5, None, 1))
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones_like(model.weight)
    outer.step()
    assert torch.allclose(before - model.weight, torch.tensor(0.05))
    assert boundaries == [1]
    assert base.param_groups[0]["lr"] == 0.1


def test_an_optimizer_nobody_named_is_left_alone(steer):
    steer(torch.optim.SGD(model_of().parameters(), lr=0.1)).want(LrIntent(0.5, None, 1))
    model = model_of()
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones_like(model.weight)
    other.step()
    assert torch.allclose(before - model.weight, torch.tensor(0.1))


def test_of_two_attachments_to_one_optimizer_the_newest_steers_and_both_hear_the_boundary(steer):
    optimizer = torch.optim.SGD(model_of().parameters(), lr=0.1)
    heard = []
    first = steer(optimizer, lambda: heard.append("first"))
    first.want(LrIntent(0.5, None, 1))
    second = steer(optimizer, lambda: heard.append("second"))
    assert (first.displaced, second.displaced, first.effective()) == (True, False, [0.1])
    optimizer.step()
    assert heard == ["first", "second"]
    import torch.optim.optimizer as registry

    assert len(registry._global_optimizer_pre_hooks) == 1


def test_without_attachments_no_hook_stays_and_no_frame_is_kept_alive():
    import torch.optim.optimizer as registry

    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steering = Steering(optimizer)
    HOOKS.add(steering)
    HOOKS.remove(steering)
    assert not registry._global_optimizer_pre_hooks
    assert not registry._global_optimizer_post_hooks
    gone = weakref.ref(optimizer)
    del optimizer, steering
    gc.collect()
    assert gone() is None


def test_groups_without_a_rate_are_passed_over(steer):
    optimizer = torch.optim.SGD(model_of().parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    steering = steer(optimizer)
    steering.want(LrIntent(0.5, None, 1))
    assert steering.effective() == []
    assert steering.first() is None


def test_a_failing_boundary_never_reaches_the_training():
    optimizer = torch.optim.SGD(model_of().parameters(), lr=0.1)

    def boundary():
        raise OSError("disk")

    steering = Steering(optimizer, boundary)
    HOOKS.add(steering)
    try:
        optimizer.step()
        assert HOOKS.last_failure == "OSError: disk"
    finally:
        HOOKS.remove(steering)
        HOOKS.failures = 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
def test_a_compiled_step_runs_outside_the_hooks_graph(steer):
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steer(optimizer).want(LrIntent(0.5, None, 1))
    model.weight.grad = torch.ones_like(model.weight)
    before = model.weight.detach().clone()
    torch.compile(optimizer.step, backend="eager")()
    assert torch.allclose(before - model.weight, torch.tensor(0.05))


def test_only_finite_rates_that_are_not_negative_can_be_put_in_force():
    assert LrIntent(0.0, None, 1).fits
    assert not LrIntent(float("nan"), None, 1).fits
    assert not LrIntent(1.0, -0.1, 1).fits
    assert not LrIntent(1.0, None, 1, (), float("inf")).fits
    assert not LrIntent(1.0, None, 1, (LrPart("a", None, 1e31),)).fits
