"""The learning rate around real torch optimizers: what is in force while they step, and what is seen at other times."""

import contextlib
import gc
import weakref

import pytest
import torch
from smarttuner.core.intent import LrIntent, LrPart
from smarttuner.trainer.cycle import Cycle
from smarttuner.trainer.lr import Steering, series_of
from smarttuner.trainer.step_hooks import HOOKS
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


@pytest.mark.parametrize("good_steps", [0, 1, 3])
def test_the_rate_is_the_users_behind_the_except_of_any_later_step(good_steps, steer):
    class Failing(torch.optim.SGD):
        def step(self, closure=None, fails=False):
            if fails:
                raise RuntimeError("out of memory")
            return self.param_groups[0]["lr"]

    optimizer = Failing(model_of().parameters(), lr=0.1)
    steer(optimizer).want(LrIntent(0.5, None, 1))
    for _ in range(3):
        assert [optimizer.step() for _ in range(good_steps)] == [0.05] * good_steps
        with contextlib.suppress(RuntimeError):
            optimizer.step(fails=True)
        assert optimizer.param_groups[0]["lr"] == 0.1
        with contextlib.suppress(RuntimeError):
            optimizer.step(None, True)
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert optimizer.step(closure=None) == 0.05


def test_a_hook_of_the_users_that_gives_the_step_other_arguments_ends_no_override(steer):
    class Telling(torch.optim.SGD):
        def step(self, closure=None, said=None):
            return said, self.param_groups[0]["lr"]

    optimizer = Telling(model_of().parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda _, args, kwargs: (args, {"said": 7}))
    steer(optimizer).want(LrIntent(0.5, None, 1))
    for _ in range(3):
        assert optimizer.step() == (7, 0.05)
        assert optimizer.param_groups[0]["lr"] == 0.1


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


def test_a_wrapper_given_beside_its_optimizer_is_scaled_once_and_put_back_where_a_step_raises():
    from smarttuner.trainer.cycle import steerings_of

    base = torch.optim.SGD(model_of().parameters(), lr=0.1)
    wrapper = torch.optim.SGD(model_of().parameters(), lr=0.1)
    wrapper.param_groups = base.param_groups  # as Lookahead and the like do
    for given in ([wrapper, base], {"outer": wrapper, "inner": base}, [base, base]):
        steerings = steerings_of(given, lambda: None)
        for one in steerings:
            HOOKS.add(one)
            one.want(LrIntent(0.5, None, 1))
        used = []

        def closure(used=used):
            used.append(base.param_groups[0]["lr"])
            raise ValueError("a step that fails")

        with pytest.raises(ValueError, match="fails"):
            base.step(closure)
        for one in steerings:
            HOOKS.remove(one)
        assert used == [0.05]
        assert base.param_groups[0]["lr"] == 0.1


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


def test_state_that_is_saved_inside_a_step_or_after_one_that_raised_holds_the_users_rate(steer):
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = sched.ExponentialLR(optimizer, 0.5)
    steer(optimizer).want(LrIntent(0.5, None, 1))
    saved = []

    def closure():
        saved.append((optimizer.state_dict()["param_groups"][0]["lr"], optimizer.param_groups[0]["lr"]))
        raise RuntimeError("out of memory")

    for expected in (0.1, 0.05):
        try:
            optimizer.step(closure)
        except RuntimeError:
            saved.append((optimizer.state_dict()["param_groups"][0]["lr"], optimizer.param_groups[0]["lr"]))
        assert optimizer.param_groups[0]["lr"] == expected  # before the schedule reads it
        schedule.step()
    with contextlib.suppress(RuntimeError):
        optimizer.step(closure)
    assert optimizer.param_groups[0]["lr"] == 0.025  # nobody asked for a state
    del saved[4:]
    assert saved == [(0.1, 0.05), (0.1, 0.1), (0.05, 0.025), (0.05, 0.05)]


def test_a_tensor_rate_in_a_state_saved_inside_a_step_is_the_users(steer):
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.25), foreach=False)
    steer(optimizer).want(LrIntent(0.5, None, 1))
    seen = []

    def closure():
        model.weight.grad = torch.ones_like(model.weight)
        seen.append((float(optimizer.state_dict()["param_groups"][0]["lr"]), float(optimizer.param_groups[0]["lr"])))
        return 0.0

    optimizer.step(closure)
    assert seen == [(0.25, 0.125)]


class AdafactorLike(torch.optim.Optimizer):
    """Computes a rate for each parameter as transformers' and fairseq's Adafactor do."""

    def __init__(self, params, lr=None):
        super().__init__(params, {"lr": lr, "relative_step": lr is None, "warmup_init": False})

    @staticmethod
    def _get_lr(group, state):
        rate = group["lr"]
        if group["relative_step"]:
            rate = min(1e-2, 1.0 / state["step"] ** 0.5)
        return max(1e-3, state["rms"]) * rate

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                state["rms"] = float(parameter.square().mean().sqrt())
                parameter.sub_(parameter.grad, alpha=self._get_lr(group, state))


@pytest.mark.parametrize(("lr", "intent", "floor", "used"), [
    (None, LrIntent(0.25, None, 1), 0.0, lambda rms: rms * 1e-2 * 0.25),
    (None, LrIntent(1.0, 0.5, 1), 0.0, lambda rms: rms * 0.5),
    (None, LrIntent(0.25, None, 1), 1.0, lambda rms: rms * 1e-2),
    (0.1, LrIntent(0.25, None, 1), 0.0, lambda rms: rms * (0.1 * 0.25)),
])  # fmt: skip
def test_an_optimizer_that_computes_a_rate_for_each_parameter_is_steered(lr, intent, floor, used, steer):
    model = model_of()
    optimizer = AdafactorLike(model.parameters(), lr)
    steering = steer(optimizer)
    assert steering.steerable
    steering.want(intent, floor)
    for _ in range(3):
        rms = float(model.weight.detach().square().mean().sqrt())
        before = model.weight.detach().clone()
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        assert torch.allclose(before - model.weight, torch.tensor(used(rms)))
    assert "_get_lr" not in vars(optimizer)
    steering.want(LrIntent(revision=2))
    optimizer.step()


class EightBitLike(torch.optim.Optimizer):
    """Reads its rate through a configuration made at each step, as bitsandbytes does."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999)})

    def get_config(self, group_index, parameter_index, group):
        return {"lr": group["lr"], "betas": group["betas"]}

    @torch.no_grad()
    def step(self, closure=None):
        for i, group in enumerate(self.param_groups):
            for k, parameter in enumerate(group["params"]):
                parameter.sub_(parameter.grad, alpha=self.get_config(i, k, group)["lr"])


ADAPTIVE = {
    "eight bit": EightBitLike,
    "fused": lambda params, lr: torch.optim.SGD(params, lr, fused=True),
    "foreach": lambda params, lr: torch.optim.SGD(params, lr, foreach=True),
    "tensor": lambda params, lr: torch.optim.SGD(params, torch.tensor(lr)),
    "fused tensor": lambda params, lr: torch.optim.Adam(params, torch.tensor(lr), fused=True, betas=(0.0, 0.0), eps=0.0),
    "maximize": lambda params, lr: torch.optim.SGD(params, lr, nesterov=True, momentum=1e-30),
}


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_each_kind_of_step_uses_the_wanted_rate_and_is_released_at_once(kind, steer):
    model = model_of()
    optimizer = ADAPTIVE[kind](model.parameters(), 0.5)
    steering = steer(optimizer)
    used = []
    for intent in (LrIntent(), LrIntent(0.25, None, 1), LrIntent(0.25, 0.0625, 2), LrIntent(revision=3)):
        steering.want(intent)
        before = model.weight.detach().clone()
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        used.append(round(float((before - model.weight.detach()).mean()), 5))
        assert steering.own() == [0.5]
    assert used == [0.5, 0.125, 0.0625, 0.5]


def test_lbfgs_uses_the_wanted_rate_through_all_evaluations_of_its_closure(steer):
    weights, paths = [torch.nn.Parameter(torch.full((3,), 3.0)) for _ in range(2)], []
    for weight, lr, intent in zip(weights, (0.125, 0.5), (LrIntent(), LrIntent(0.25, None, 1)), strict=True):
        optimizer = torch.optim.LBFGS([weight], lr=lr, max_iter=4)
        steer(optimizer).want(intent)

        def closure(weight=weight, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (weight**4).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        paths.append(weight.detach().clone())
    assert torch.equal(*paths)


def test_groups_and_optimizers_are_steered_by_their_names_also_those_added_later(steer):
    models = [model_of(), model_of()]
    optimizer = torch.optim.SGD([{"params": models[0].parameters(), "name": "body"}], lr=1.0)
    steering = Steering(optimizer, name="g")
    HOOKS.add(steering)
    try:
        steering.want(LrIntent().scaled(0.5, "g", "body").scaled(0.25, "g", "1").scaled(0.1, "d"))
        assert steering.effective() == [0.5]
        optimizer.add_param_group({"params": models[1].parameters(), "lr": 2.0})
        assert steering.effective() == [0.5, 0.5]
        assert series_of([steering])["lr_effective/1"] == 0.5
        assert steering.names() == [("0", "body"), ("1",)]
    finally:
        HOOKS.remove(steering)


def test_an_optimizer_that_writes_its_rate_inside_its_step_is_noticed(steer):
    class Willful(torch.optim.SGD):
        def step(self, closure=None):
            self.param_groups[0]["lr"] = 0.1 + 0.0
            return

    optimizer = Willful(model_of().parameters(), lr=0.2)
    steering = steer(optimizer)
    steering.want(LrIntent(0.5, None, 1))
    optimizer.step()
    assert (steering.overwritten, optimizer.param_groups[0]["lr"]) == (1, 0.1)


def test_the_cycle_of_several_optimizers_ends_with_whichever_comes_last_and_waits_for_none_that_stopped():
    rounds = []
    cycle = Cycle(2, lambda: rounds.append(1))
    for number in (0, 0, 0, 1, 0, 1, 1, 0):
        cycle.stepped(number)
    assert len(rounds) == 3
    for _ in range(600):
        cycle.stepped(0)  # the other is frozen from here on
    assert len(rounds) > 300


def test_a_floor_beside_a_multiplier_is_the_one_that_is_told(steer):
    for lr, floor in ((0.1, 0.0), (0.1, 0.06), (0.1, 0.5), (1e-3, 0.06), (0.0, 0.1), (float("inf"), 0.1)):
        weight = torch.nn.Parameter(torch.ones(1))
        used = []

        class Telling(torch.optim.SGD):
            def step(self, closure=None, used=used):
                used.extend(group["lr"] for group in self.param_groups)

        steering = steer(Telling([weight], lr=lr))
        steering.want(LrIntent(0.5, None, 1), floor)
        steering.optimizer.step()
        assert used == steering.effective() == [max(lr * 0.5, min(lr, floor))]
