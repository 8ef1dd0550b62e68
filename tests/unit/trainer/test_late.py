"""run.steer: an optimizer or a model that was not there when attach was called, or that takes the place of another."""

import threading

import pytest
import torch
from smarttuner.trainer.parts import on_cpu
from smarttuner.trainer.step_hooks import HOOKS

HALF = {"intent": {"multiplier": 0.5, "hold": None, "revision": 1}, "factor": 0.5}


class Job:
    """A model and an optimizer that are made after attach; `used` are the rates of its steps."""

    def __init__(self, lr=0.1, run=None, **given):
        self.used = []
        self.model = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.optimizer.register_step_pre_hook(lambda one, *_: self.used.append(one.param_groups[0]["lr"]))
        if run is not None:
            run.steer(self.optimizer, model=self.model, **given)

    def step(self):
        self.optimizer.zero_grad()
        self.model(torch.randn(4, 2)).square().mean().backward()
        self.optimizer.step()


def test_an_optimizer_that_comes_late_is_steered_and_its_steps_are_the_boundaries(attach):
    run = attach()
    early = run.host.order("scale-lr", "early", **HALF)
    run.log({"a": 1.0}, step=0)
    assert run.host.answers()[early] == ("refused", "no optimizer was given (pass optimizer= to attach, or to run.steer later)")
    job = Job(run=run)
    run.host.order("scale-lr", "late", **HALF)
    run.log({"a": 1.0}, step=1)
    assert "late" not in run.host.answers()  # log() is no boundary any more
    stepping = threading.Thread(target=job.step)  # whichever thread steps, is the training's
    stepping.start()
    stepping.join()
    assert run.host.answers()["late"] == ("applied", "")
    job.step()
    run.log({"a": 1.0}, step=2)
    assert job.used == [0.1, 0.05]
    assert job.optimizer.param_groups[0]["lr"] == 0.1
    effective = [(step, value) for name, step, value in run.host.read().points if name == "lr_effective"]
    assert effective == [(1, 0.1), (2, 0.05)]
    run.finish()
    assert not HOOKS.steerings


def test_the_best_weights_of_a_model_that_comes_late_come_back_bit_for_bit(attach):
    run = attach(monitor="val_loss", goal="min")
    run.log({"val_loss": 9.0}, step=0)
    job = Job(run=run)
    for step, value in enumerate((3.0, 1.0, 2.0), start=1):
        job.step()
        run.log({"val_loss": value}, step=step)
        if value == 1.0:
            best = on_cpu(job.model.state_dict())
    run.host.order("prune", "end", restore="best")
    job.step()
    (ack,) = run.host.read().acks
    assert (ack.status, ack.after) == ("applied", {"restored": 2})
    assert all(torch.equal(best[name], one) for name, one in job.model.state_dict().items())


def test_a_standing_order_that_came_before_the_model_holds_once_it_is_there(attach):
    run = attach()
    order = run.host.order("keep-best", series="val_loss", goal="max", best=5.0, step=3)
    run.log({"val_loss": 4.0}, step=4)
    assert run.host.answers()[order] == ("refused", "no model was given (pass model= to attach, or to run.steer later)")
    Job(run=run)
    for step, value in ((5, 4.5), (6, 7.0), (7, 6.0)):
        run.log({"val_loss": value}, step=step)
    kept = run._line.keep_best.kept("val_loss")
    assert (kept.step, kept.value) == (6, 7.0)


def test_an_optimizer_that_takes_the_place_of_another_keeps_what_was_decided(attach):
    run = attach(optimizer=(first := Job()).optimizer, model=first.model, monitor="a", goal="min")
    run.host.order("scale-lr", **HALF)
    first.step()
    run.log({"a": 1.0}, step=0)
    second = Job(0.4, run=run)
    for job in (first, second):
        job.step()
    assert (first.used, second.used) == ([0.1, 0.1], [0.2])
    assert not run._line.keep_best._kept  # they were another model's
    assert [one.optimizer for one in HOOKS.steerings] == [second.optimizer]
    run.host.order("checkpoint", "saved")
    second.step()
    (saved,) = [ack for ack in run.host.read().acks if ack.id == "saved"]
    state = torch.load(f"{saved.after}/checkpoint.pt", weights_only=True)
    assert torch.equal(state["model"]["weight"], second.model.weight)
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.4


def test_a_rate_that_is_inherited_waits_for_the_optimizer(attach, capsys):
    run = attach(optimizer=(before := Job()).optimizer)
    run.host.order("scale-lr", **HALF)
    before.step()
    run.finish()
    capsys.readouterr()
    again = attach(resume_from_step=0)
    assert "as attempt" in (said := capsys.readouterr().err)
    assert "left it, once run.steer(optimizer=...) is called; undo it with" in said
    assert again.host.read().runs[0].started.lr.multiplier == 0.5
    again.log({"a": 1.0}, step=1)
    job = Job(run=again)
    job.step()
    assert job.used == [0.05]


def test_what_is_no_optimizer_is_said_and_changes_nothing(attach, capsys):
    run = attach(optimizer=(job := Job()).optimizer)
    run.steer(job.model, model=job.model)
    assert "optimizer= got a Linear" in capsys.readouterr().err
    assert run._line.control.effects.checkpoints.parts.model is None
    run.host.order("scale-lr", **HALF)
    job.step()
    job.step()
    assert job.used == [0.1, 0.05]
    run.failures = 0


def test_how_groups_are_called_is_told_and_one_under_two_names_is_refused(attach):
    job, part = Job(), {"multiplier": 1.0, "hold": 0.01}
    job.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "name": "head"})
    run = attach(optimizer={"g": job.optimizer})
    assert run.host.read().runs[0].started.groups == {"g": ["", "head"]}
    orders = []
    for number, (parts, group) in enumerate(((["1"], "1"), (["1", "head"], "head"), (["1"], "head"), (["head"], "head"))):
        intent = {"multiplier": 1.0, "hold": None, "revision": number, "parts": [part | {"group": one} for one in parts]}
        orders.append(run.host.order("set-lr", intent=intent, groups=[group]))
        job.step()
    answers = run.host.answers()
    assert [answers[one][0] for one in orders] == ["applied", "refused", "refused", "applied"]
    assert "group head is group 1: its rate is kept under one of them" in answers[orders[1]][1]
    assert attach("other", optimizer=Job().optimizer).host.read().runs[0].started.groups == {}


@pytest.mark.parametrize("how", ["disabled", "finished"])
def test_a_run_that_is_not_there_takes_an_optimizer_and_does_nothing(how, attach):
    run = attach(mode="disabled" if how == "disabled" else "act")
    run.finish()
    Job(run=run).step()
    assert not HOOKS.steerings


class Wrapper(torch.optim.Optimizer):
    """As Accelerate's and Lightning's: it looks like an optimizer, has the groups of the one in it, and none of its hooks."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        return self.optimizer.step(closure)


def test_an_optimizer_in_a_frameworks_wrapper_is_steered_once(attach):
    job = Job()
    run = attach(optimizer=Wrapper(Wrapper(job.optimizer)))
    job.optimizer, inner = Wrapper(job.optimizer), job.optimizer
    run.host.order("scale-lr", **HALF)
    for _ in range(2):
        job.step()
    assert job.used == [0.1, 0.05]
    assert inner.param_groups[0]["lr"] == 0.1


class OnDevice:
    """A scalar of a device, and its copy on the way from there."""

    is_cuda = True

    def numel(self):
        return 1

    def arrived(self):
        return True

    def value(self):
        return 0.5


def test_a_job_that_observes_is_looked_in_at_at_its_optimizers_steps_too(attach):
    """One that logs once an hour must not keep for an hour what has come from its device, or what it is asked."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    run = attach(mode="observe", optimizer=optimizer)
    run._intake._copy = lambda value: value
    optimizer.step()
    run.log({"val_loss": OnDevice()}, step=7)
    optimizer.step()  # right behind log(), which has just looked
    order, run._calm.looked = run.host.order("prune"), 0.0  # a second has passed
    optimizer.step()
    assert ("val_loss", 7, 0.5) in run.host.read().points
    assert run.host.answers() == {order: ("refused", "the job was attached with mode=observe")}
