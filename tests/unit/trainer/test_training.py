"""Real torch trainings under steering; the daemon's side is done by hand (see conftest)."""

import inspect
import os
import pathlib

import pytest
import smarttuner
import torch
from smarttuner.trainer.attachment import Attachment
from smarttuner.trainer.parts import on_cpu
from smarttuner.trainer.step_hooks import HOOKS
from torch.utils.data import DataLoader, TensorDataset


class Training:
    """A small regression: `run(steps)` yields after each optimizer step, before anything is logged."""

    def __init__(self, optimizer=torch.optim.SGD, lr=0.1, **options):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        self.optimizer = optimizer(self.model.parameters(), lr=lr, **options)
        self.inputs, self.targets = torch.randn(32, 4), torch.randn(32, 1)

    def run(self, steps):
        for step in range(steps):
            self.optimizer.zero_grad()
            loss = (self.model(self.inputs) - self.targets).square().mean()
            loss.backward()
            self.optimizer.step()
            yield step, loss

    def weights(self):
        return on_cpu(self.model.state_dict())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(autouse=True)
def _no_hook_fails():
    yield
    assert HOOKS.failures == 0, HOOKS.last_failure


@pytest.mark.parametrize("mode", ["observe", "act", "disabled"])
def test_weights_are_bit_identical_watched_or_not(mode, attach):
    alone, watched = Training(torch.optim.Adam), Training(torch.optim.Adam)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(one.optimizer, 20) for one in (alone, watched)]
    for _ in alone.run(20):
        schedules[0].step()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run = attach(optimizer=watched.optimizer, model=watched.model, monitor="loss", goal="min", mode=mode)
    if mode == "observe":
        run.host.order("scale-lr", intent={"multiplier": 0.1, "hold": None, "revision": 1})
    for step, loss in watched.run(20):
        schedules[1].step()
        run.log({"loss": loss, "detached": loss.detach()}, step=step)
    run.finish()
    assert same(alone.weights(), watched.weights())
    assert torch.equal(before, torch.get_rng_state())


def test_a_scaled_rate_is_in_force_from_the_next_step_on_and_seen_by_nobody_but_the_optimizer(attach, state):
    job = Training()
    schedule = torch.optim.lr_scheduler.StepLR(job.optimizer, 5, 0.5)
    used = []
    job.optimizer.register_step_pre_hook(lambda o, a, k: used.append(o.param_groups[0]["lr"]))
    run = attach(optimizer=job.optimizer, model=job.model)
    for step, loss in job.run(12):
        schedule.step()
        run.log({"loss": loss.item()}, step=step)
        if step == 2:
            run.host.order("scale-lr", "half", intent={"multiplier": 0.5, "hold": None, "revision": 1}, factor=0.5)
        if step == 6:
            run.host.order("set-lr", "fixed", intent={"multiplier": 0.5, "hold": 0.01, "revision": 2}, value=0.01)
            run.host.order("checkpoint", "saved")
        if step == 8:
            run.host.order("release-lr", "free", intent={"multiplier": 1.0, "hold": None, "revision": 3})
    own = [0.1] * 5 + [0.05] * 5 + [0.025] * 2
    wanted = [*own[:4], own[4] / 2, *[lr / 2 for lr in own[5:8]], 0.01, 0.01, *own[10:]]
    assert used == pytest.approx(wanted, abs=0)
    acks = {ack.id: ack for ack in run.host.read().acks}
    # The order that came after step 2 was logged is found after the next optimizer step; the job is at its step 2 still.
    assert (acks["half"].step, acks["half"].before, acks["half"].after) == (2, 0.1, 0.05)
    assert (acks["fixed"].before, acks["fixed"].after) == (0.025, 0.01)
    assert acks["free"].after == 0.05
    series = {name: [(s, v) for n, s, v in run.host.points if n == name] for name in ("lr", "lr_effective")}
    assert series["lr_effective"] == [(0, 0.1), (3, 0.05), (4, 0.025), (7, 0.01), (9, 0.025)]
    assert series["lr"] == [(0, 0.1), (3, 0.1), (4, 0.05), (7, 0.05), (9, 0.025)]
    saved = torch.load(state / "checkpoints" / "r" / "step-6" / "checkpoint.pt", weights_only=True)
    assert saved["optimizer"]["param_groups"][0]["lr"] == 0.05


def test_the_best_weights_come_back_bit_for_bit_and_the_prune_ends_the_loop(attach, capsys):
    job = Training(torch.optim.Adam)
    run = attach(optimizer=job.optimizer, model=job.model, monitor="val_loss", goal="min")
    values = [3.0, 2.0, 2.5, 1.0, 1.5, 1.0, 4.0, 5.0]
    for step, loss in job.run(20):
        if step < len(values):
            value = values[step]
            if value == 1.0 and step == 3:
                best = job.weights()
            run.log({"loss": loss, "val_loss": torch.tensor(value, dtype=torch.float64)}, step=step)
        if step == 7:
            run.host.order("prune", "stop", restore="best")
        if run.should_stop:
            break
    assert step == 8
    assert same(job.weights(), best)
    host = run.host.read()
    assert host.runs[0].started.keeps_best
    assert (host.runs[1].event, host.runs[1].step, host.runs[1].details["value"]) == ("restored", 3, 1.0)
    assert (host.acks[0].status, host.acks[0].after) == ("applied", {"restored": 3})
    run.finish()
    assert "prune {'restored': 3}" in capsys.readouterr().err


def test_a_standing_order_starts_keeping_and_a_nan_in_the_moments_is_not_carried_on(attach):
    job = Training(torch.optim.Adam)
    run = attach(optimizer=job.optimizer, model=job.model)
    run.host.order("keep-best", "keep", series="val", goal="max", min_delta=0.0, best=0.5, step=0)
    for step, _ in job.run(12):
        run.log({"val": step / 10}, step=step)
        if step == 8:
            best = job.weights()
            with torch.no_grad():
                job.model[0].weight.fill_(float("nan"))
            run.host.order("restore", "back", which="best", series="val")
        if step == 9:
            run.log({"after": 1.0}, step=step)
            assert run.host.answers()["back"] == (
                "applied",
                "the weights of step 8 (val 0.8), kept in memory; the optimizer's moments held a NaN and were forgotten",
            )
            assert all(torch.isfinite(value).all() for value in job.weights().values())
            break
    assert run.host.answers()["keep"] == ("applied", "from the next best val on")
    assert same(job.weights(), best)
    assert not job.optimizer.state
    assert [ack.after for ack in run.host.acks if ack.id == "back"] == [8]


def test_a_checkpoint_can_be_resumed_from_and_names_its_attempt(attach, state):
    job = Training(torch.optim.Adam)
    run = attach(optimizer=job.optimizer, model=job.model)
    for step, _ in job.run(6):
        run.log({"a": 1.0}, step=step)
        if step == 3:
            run.host.order("checkpoint", "save")
        if step == 4:
            saved = job.weights()
            run.host.order("restore", "back", which=3)
    assert [ack.status for ack in run.host.read().acks] == ["applied", "applied"]
    assert same(saved, torch.load(state / "checkpoints" / "r" / "step-3" / "checkpoint.pt", weights_only=True)["model"])
    assert attach("r", resume_from_step=3).host.read().runs[0].started.parent == run.attempt


def test_tensors_of_any_kind_are_numbers_if_they_hold_one(attach, capsys):
    run = attach()
    grown = torch.tensor(2.0, requires_grad=True) * 2
    run.log(
        {
            "grad": grown,
            "half": torch.tensor(0.5, dtype=torch.bfloat16),
            "int": torch.tensor(3),
            "one": torch.ones(1, 1),
            "many": torch.ones(2),
        },
        step=torch.tensor(5),
    )
    assert run.host.read().points == [("grad", 5, 4.0), ("half", 5, 0.5), ("int", 5, 3.0), ("one", 5, 1.0)]
    assert "'many' is no number but Tensor" in capsys.readouterr().err


class Loud(TensorDataset):
    """A data set that logs from wherever it is read: in a worker that is the child of a fork."""

    run = None

    def __getitem__(self, index):
        self.run.log({"from_worker": 1.0})
        return super().__getitem__(index)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside torch's own threads is the data loader's choice
def test_workers_forked_by_a_data_loader_are_silent(attach):
    job = Training()
    run = attach(optimizer=job.optimizer, model=job.model)
    data = Loud(job.inputs, job.targets)
    data.run = run
    for step, _ in enumerate(DataLoader(data, batch_size=8, num_workers=2, multiprocessing_context="fork")):
        next(job.run(1))
        run.log({"loss": 1.0}, step=step)
    assert {row[0] for row in run.host.read().points} == {"loss", "lr", "lr_effective"}
    assert [one.event for one in run.host.runs] == ["started"]


def test_the_child_of_a_fork_is_inert_and_its_optimizer_is_its_own(attach):
    job = Training()
    run = attach(optimizer=job.optimizer, model=job.model)
    run.host.order("scale-lr", intent={"multiplier": 0.5, "hold": None, "revision": 1})
    next(job.run(1))
    child = os.fork()
    if child == 0:
        try:
            run.log({"child": 1.0})
            run.finish()
            assert run._line is None
            assert not HOOKS.steerings
            torch.set_num_threads(1)  # the parent's OpenMP threads are not here: to wait for them would be for ever
            job.optimizer.step()  # no backward: torch refuses one where a test before this has started its threads
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run._line is not None
    run.log({"parent": 1.0})
    assert {row[0] for row in run.host.read().points} == {"parent", "lr", "lr_effective"}


def test_two_attachments_in_one_process_each_steer_their_own(attach):
    jobs = [Training(), Training()]
    runs = [attach(f"r{i}", optimizer=job.optimizer, model=job.model) for i, job in enumerate(jobs)]
    runs[0].host.order("set-lr", "a", intent={"multiplier": 1.0, "hold": 0.5, "revision": 1})
    for one, run in zip(jobs, runs, strict=True):
        for step, loss in one.run(3):
            run.log({"loss": loss}, step=step)
    effective = [[v for n, _, v in run.host.read().points if n == "lr_effective"] for run in runs]
    assert effective == [[0.5], [0.1]]
    runs[0].finish()
    assert len(HOOKS.steerings) == 1
    third = attach("r2", optimizer=jobs[1].optimizer)
    runs[1].host.order("scale-lr", "b", intent={"multiplier": 0.5, "hold": None, "revision": 1})
    next(jobs[1].run(1))
    assert runs[1].host.answers()["b"] == ("refused", "a newer attachment steers this optimizer")
    assert third.host.answers() == {}


def test_several_optimizers_share_one_boundary_and_one_intent(attach):
    first, second = Training(lr=0.1), Training(lr=0.2)
    run = attach(optimizer={"g": first.optimizer, "d": second.optimizer})
    run.host.order("scale-lr", "half", intent={"multiplier": 0.5, "hold": None, "revision": 1}, min_lr=0.08)
    next(first.run(1))
    assert run.host.answers() == {}  # the cycle is not over
    next(second.run(1))
    assert run.host.answers() == {"half": ("applied", "")}
    assert run.host.acks[0].after == {"g": 0.08, "d": 0.1}
    negative = run.host.order("set-lr", intent={"multiplier": 1.0, "hold": -1.0, "revision": 2})
    for one in (second, first):  # in whichever order they step
        next(one.run(1))
    unreadable = run.host.order("release-lr")
    for one in (second, first):
        next(one.run(1))
    assert [run.host.answers()[one][0] for one in (negative, unreadable)] == ["refused", "refused"]


def test_a_model_that_cannot_be_copied_is_told_once_and_the_training_goes_on(attach, capsys):
    class Broken(torch.nn.Linear):
        def state_dict(self, *_, **__):
            raise RuntimeError("device lost")

    run = attach(model=Broken(1, 1), monitor="a", goal="min")
    for step in range(3):
        run.log({"a": -float(step)}, step=step)
    assert capsys.readouterr().err.count("RuntimeError: device lost; the training goes on") == 1
    assert len(run.host.read().points) == 3
    run.failures = 0


def test_attach_is_found_on_the_package():
    assert smarttuner.attach.__module__ == "smarttuner.trainer.attach"


def test_the_example_of_the_documentation_runs_as_shown(state, capsys):
    page = (pathlib.Path(smarttuner.__file__).parent / "docs" / "sdk.md").read_text()
    (example,) = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    exec(compile(example, "docs/sdk.md", "exec"), {})
    assert "run my-run finished" in capsys.readouterr().err


def test_every_argument_of_attach_is_documented():
    page = (pathlib.Path(smarttuner.__file__).parent / "docs" / "sdk.md").read_text()
    table = page.split("## Arguments")[1].split("## What the handle")[0]
    assert [name for name in inspect.signature(smarttuner.attach).parameters if f"`{name}`" not in table] == []
    handle = page.split("## What the handle")[1].split("## What a decision")[0]
    steer = [name for name in inspect.signature(Attachment.steer).parameters if name != "self"]
    assert [name for name in steer if f"{name}=None" not in handle] == []


def scaled(multiplier, revision=1, **more):
    return {"multiplier": multiplier, "hold": None, "revision": revision, **more}


def test_a_rate_in_force_is_inherited_by_the_attempt_that_goes_on_and_said_where_it_is_not(attach, capsys):
    job = Training()
    first = attach(optimizer=job.optimizer)
    first.host.order("scale-lr", intent=scaled(0.5))
    for _ in job.run(2):
        pass
    first.finish()
    capsys.readouterr()
    stranger = attach(optimizer=Training().optimizer)
    assert "ended with the learning rate times 0.5; this one has its own: pass resume_from_step=" in capsys.readouterr().err
    assert stranger.host.read().runs[0].started.lr is None
    stranger.finish()
    capsys.readouterr()
    again = Training()
    second = attach(optimizer=again.optimizer, resume_from_step=1, allow=("prune",))
    assert "this job does not allow it" not in capsys.readouterr().err  # the attempt before had its own rate
    second.finish()


def test_what_was_inherited_is_inherited_again_and_released_by_an_order(attach, capsys):
    used = []
    for number in range(3):
        job = Training()
        job.optimizer.register_step_pre_hook(lambda o, a, k: used.append(o.param_groups[0]["lr"]))
        run = attach(optimizer=job.optimizer, **({"resume_from_step": number} if number else {}))
        run.host.order(("scale-lr", "checkpoint", "release-lr")[number], intent=scaled((0.5, None, 1.0)[number], number + 1))
        for _ in job.run(2):
            pass
        said = capsys.readouterr().err
        assert ("the learning rate is times 0.5 as attempt" in said) == (number > 0)
        intent = run.host.read().runs[0].started.lr
        assert (intent is None) if number == 0 else (intent.multiplier == 0.5)
        run.finish()
    assert used == [0.1, 0.05, 0.05, 0.05, 0.05, 0.1]


def test_the_journal_of_a_killed_attempt_keeps_its_rate_when_what_it_owes_was_said(attach, state):
    job = Training()
    first = attach(optimizer=job.optimizer)
    first.host.order("scale-lr", "half", intent=scaled(0.5))
    for _ in job.run(1):
        pass
    journal = first._line.journal
    journal.begin("cut", "checkpoint", {}, 1, 1.0)
    first.finish()
    path = journal.path
    raw = path.read_bytes()
    lines = [line for line in raw.split(b"\n") if b'"opened"' not in line]  # its process is no more
    path.write_bytes(b"\n".join(lines))
    second = attach(optimizer=Training().optimizer, resume_from_step=0)
    assert second.host.read().runs[0].started.lr.multiplier == 0.5
    third = attach(optimizer=Training().optimizer, resume_from_step=0)
    assert third.host.read().runs[0].started.lr.multiplier == 0.5


def test_one_value_for_groups_that_differ_is_refused_unless_one_is_named(attach):
    job = Training()
    job.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.3, "name": "head"})
    run = attach(optimizer=job.optimizer)
    held = {"multiplier": 1.0, "hold": 0.01, "revision": 1}
    part = scaled(1.0, 2, parts=[{"group": "head", "hold": 0.01}])
    orders = [run.host.order("set-lr", "all", intent=held)]
    next(job.run(1))
    orders.append(run.host.order("set-lr", "unknown", intent=part, group="tail"))
    next(job.run(1))
    orders.append(run.host.order("scale-lr", "nobody", intent=part, optimizer="g"))
    next(job.run(1))
    run.log({"a": 1.0})
    orders.append(run.host.order("set-lr", "head", intent=part, group="head"))
    next(job.run(1))
    run.log({"a": 1.0})
    answers = run.host.answers()
    assert [answers[one][0] for one in orders] == ["refused", "refused", "refused", "applied"]
    assert "learning rates of their own (0.1, 0.3)" in answers["all"][1]
    assert "no parameter group is called tail (there are: 0, 1, head)" in answers["unknown"][1]
    assert "no optimizer is called g (there are: 0)" in answers["nobody"][1]
    assert [ack.after for ack in run.host.acks if ack.id == "head"] == [[0.1, 0.01]]
    series = {name: value for name, _, value in run.host.points}
    assert (series["lr/head"], series["lr_effective/head"], series["lr_effective/0"]) == (0.3, 0.01, 0.1)


def test_the_jobs_own_floor_holds_whoever_scales_and_a_wrong_one_is_said(attach, capsys):
    job = Training()
    run = attach(optimizer=job.optimizer, min_lr=0.04)
    run.host.order("scale-lr", intent=scaled(0.01))
    next(job.run(1))
    assert run.host.read().acks[0].after == 0.04
    attach("wrong", min_lr="low", max_bytes="much", min_free_bytes=-1)
    said = capsys.readouterr().err
    assert "min_lr='low' is no learning rate" in said
    assert "max_bytes='much' is no whole number" in said


def test_a_folder_of_the_jobs_own_takes_the_checkpoints(attach, tmp_path):
    job = Training()
    run = attach("a/b", optimizer=job.optimizer, model=job.model, checkpoint=tmp_path / "mine", min_free_bytes=0)
    run.host.order("checkpoint")
    next(job.run(1))
    (ack,) = run.host.read().acks
    assert (ack.status, ack.after) == ("applied", str(tmp_path / "mine" / "step-0"))
    run.host.order("restore", to="last")
    next(job.run(1))
    (back,) = run.host.read().acks[1:]
    assert back.reason.startswith(f"model, optimizer from {tmp_path / 'mine' / 'step-0'}")
