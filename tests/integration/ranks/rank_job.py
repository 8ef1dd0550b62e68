"""Both ranks of small trainings that are decided about; rank 0 plays its own daemon. Writes what happened as JSON.

rank_job.py FOLDER WAY...       each way twice, forked once torch is loaded: that takes longer than all of them
torchrun rank_job.py FOLDER restarted
"""

import errno
import hashlib
import json
import os
import pathlib
import signal
import socket
import sys
import time
import traceback
from contextlib import ExitStack, nullcontext
from functools import partial
from unittest import mock

import smarttuner
import torch
import torch.distributed as dist
import training_faults
from smarttuner.bus.control_page import Order, PageWriter
from smarttuner.bus.shipper import Shipper
from smarttuner.bus.spool_reader import SpoolReader
from smarttuner.core.events import Ack, decode
from smarttuner.trainer.agreement import Agreement
from smarttuner.trainer.gate import Gate
from smarttuner.trainer.lr import Steering
from smarttuner.trainer.ranks import Table
from torch.nn.parallel import DistributedDataParallel
from training_faults import FROM_THE_START, HELD

MOST_STEPS = 20_000
SEEN = {}


class Daemon:
    """The daemon's side of rank 0's spool, by hand."""

    def __init__(self, run):
        path = run._line.spool.path
        self.shipper = Shipper(SpoolReader(os.open(path, os.O_RDWR)))
        self.page = PageWriter(os.open(path, os.O_RDWR))
        self.acks, self.started = {}, None

    def order(self, action, **params):
        order = Order(action, action, params, time.time() + 60, reason=f"because of {action}")
        assert self.page.place(order, 0.0).slot >= 0

    def read(self):
        while self.shipper.reader.behind:
            for message in self.shipper.read(0.0):
                event = decode(message.body)
                if isinstance(event, Ack):
                    self.acks[event.id] = (event.status, event.step, event.reason)
                elif getattr(event, "started", None) is not None:
                    self.started = event.started
        return self.acks


class Job:
    """A regression of two layers; each rank sees its own data. `lrs` are the steps at which another LR was used."""

    def __init__(self, ddp=True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
        self.model = DistributedDataParallel(model) if ddp else model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(dist.get_rank())
        self.inputs, self.targets = torch.randn(16, 4, generator=generator), torch.randn(16, 1, generator=generator)
        self.lrs = []
        self.optimizer.register_step_pre_hook(self._note)
        self.steps = 0

    def _note(self, optimizer, _args, _kwargs):
        lr = optimizer.param_groups[0]["lr"]
        if not self.lrs or self.lrs[-1][1] != lr:
            self.lrs.append((self.steps, lr))

    def step(self):
        self.steps += 1
        self.optimizer.zero_grad()
        loss = (self.model(self.inputs) - self.targets).square().mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def digest(self):
        state = {
            name: getattr(tensor, "to_local", lambda tensor=tensor: tensor)().numpy().tobytes().hex()
            for name, tensor in self.model.state_dict().items()
            if "running" not in name
        }
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def attach(job, **more):
    return smarttuner.attach("job", optimizer=job.optimizer, model=job.model, **more)


def steered():
    """Orders one after the other, each placed once the last is answered; a straggler of 1.5 s in the middle of each."""
    job, saved = Job(), []

    def save(path):
        dist.barrier()
        saved.append(job.steps)
        if dist.get_rank() == 0:
            torch.save(job.model.state_dict(), path)
        dist.barrier()

    run = smarttuner.attach("job", monitor="loss", goal="min", checkpoint=save)  # others give both to attach
    run.steer(job.optimizer, model=job.model)
    orders = [
        ("scale-lr", {"intent": {"multiplier": 0.5, "hold": None, "revision": 1}}),
        ("checkpoint", {}),
        ("restore", {"to": "best"}),
        ("prune", {"restore": "best"}),
    ]
    daemon = Daemon(run) if dist.get_rank() == 0 else None
    placed, best = [], None
    while not run.should_stop and job.steps < MOST_STEPS:
        job.step()
        if job.steps == 5:
            best = job.digest()
        run.log({"loss": abs(job.steps - 5.0)}, step=job.steps)
        if daemon is not None and job.steps > 10 and len(daemon.read()) == len(placed) and orders:
            action, params = orders.pop(0)
            daemon.order(action, **params)
            placed.append(action)
        if dist.get_rank() == 1 and job.steps in (20, 40):
            time.sleep(1.5)
    SEEN.update(stop=run.stop_reason, saved=saved, best=best, attempt=run.attempt, running=job.digest())
    if daemon is not None:
        SEEN.update(acks=daemon.read(), step=run._where())
    run.finish()
    return job


def fail(*_args, **_more):
    raise OSError(errno.ENOSPC, "something of ours fails")


FAULTS = {
    "no disk": (os, "posix_fallocate"),
    "no store": (Table, "read"),
    "no hook before": (Steering, "frame"),
    "no hook after": (Steering, "boundary"),
    "no boundary": (Gate, "pass_boundary"),
    "no thread": (Agreement, "begin"),
}


def identical():
    """The same training, not watched, watched, and watched while something of ours fails from the start or on the way."""
    digests = {}
    for way in ("disabled", "observe", "act", *FAULTS, *(f"{fault}, later" for fault in FAULTS)):
        job, (fault, _, later) = Job(), way.partition(", ")
        broken = FAULTS.get(fault)
        with mock.patch.object(*broken, fail) if broken and not later else nullcontext():
            run = attach(job, mode=way if broken is None else "act", monitor="loss", goal="min")
        with mock.patch.object(*broken, fail) if broken else nullcontext():
            for step in range(20):
                run.log({"loss": job.step()}, step=step)
        run.finish()
        digests[way] = job.digest()
    SEEN["digests"] = digests
    return job


def under_faults():
    """The same training under each of tests/training_faults.py on both ranks, and on one alone."""
    unwatched = Job()
    for _ in range(12):
        unwatched.step()
    digests = {"unwatched": unwatched.digest()}
    for fault in (*FROM_THE_START, *training_faults.FAULTS):
        for mode, ranks in (("observe", (0, 1)), ("act", (0, 1)), ("act", (0,)), ("act", (1,))):
            job, struck = Job(), dist.get_rank() in ranks
            own = FOLDER / f"{dist.get_rank()}-{len(digests)}"
            own.mkdir()
            os.environ["XDG_STATE_HOME"] = str(own)
            with ExitStack() as stack:
                if struck and fault in FROM_THE_START:
                    FROM_THE_START[fault](stack)
                run = attach(job, mode=mode, monitor="loss", goal="min")
                for step in range(12):
                    if struck and fault in training_faults.FAULTS:
                        training_faults.FAULTS[fault](step, run, {"optimizer": job.optimizer, "model": job.model}, stack)
                    run.log({"loss": job.step()}, step=step)
                run.finish()
                while HELD:
                    HELD.pop().finish()
            digests[f"{fault}, {mode}, {ranks}"] = job.digest()
    SEEN["digests"] = digests
    return job


def sharded():
    """FSDP: each rank has half of the weights, and no single rank may save or copy them."""
    from torch.distributed.fsdp import fully_shard

    job = Job(ddp=False)
    job.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
    fully_shard(job.model, mesh=dist.init_device_mesh("cpu", (2,)))
    job.optimizer = torch.optim.Adam(job.model.parameters(), lr=0.01)
    job.optimizer.register_step_pre_hook(job._note)
    run = attach(job, monitor="loss", goal="min")
    daemon = Daemon(run) if dist.get_rank() == 0 else None
    if daemon is not None:
        for action, params in (("scale-lr", {"intent": {"multiplier": 0.5, "hold": None, "revision": 1}}), ("checkpoint", {})):
            daemon.order(action, **params)
    while not run.should_stop and job.steps < MOST_STEPS:
        run.log({"loss": job.step()}, step=job.steps)
        if daemon is not None and len(daemon.read()) == 2 and not SEEN:
            SEEN["pruned"] = True
            daemon.order("prune", restore="best")
    SEEN.update(stop=run.stop_reason, acks=daemon.read() if daemon is not None else {})
    run.finish()
    return job


def dies(after):
    """Rank 1 dies over its vote; the ranks share no collective, so rank 0 goes on alone."""
    job = Job(ddp=False)
    run = attach(job)
    if dist.get_rank() == 1:
        put = Table.put

        def deadly(table, key, said):
            if key.startswith("vote/"):
                if after:
                    put(table, key, said)
                os.kill(os.getpid(), signal.SIGKILL)
            put(table, key, said)

        Table.put = deadly
    else:
        daemon = Daemon(run)
        daemon.order("scale-lr", intent={"multiplier": 0.5, "hold": None, "revision": 1})
        daemon.order("prune")
    began, longest = time.monotonic(), 0.0
    while not run.should_stop and time.monotonic() - began < 30:
        before = time.monotonic()
        job.step()
        longest = max(longest, time.monotonic() - before)
        if dist.get_rank() == 0 and len(daemon.read()) == 2:
            break
        time.sleep(0.001)
    SEEN.update(acks=daemon.read(), longest=longest, stop=run.stop_reason)
    run.finish()
    return job


class Regression(torch.nn.Module):
    """In the shape that the Hugging Face Trainer wants."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(4, 1)

    def forward(self, inputs, labels):
        logits = self.line(inputs)
        return {"loss": (logits - labels).square().mean(), "logits": logits}


def framework():
    """The Hugging Face Trainer on both ranks, steered through its callback."""
    import transformers
    from smarttuner.trainer.adapters.transformers import SmartTunerCallback

    orders = [("scale-lr", {"intent": {"multiplier": 0.5, "hold": None, "revision": 1}}), ("checkpoint", {}), ("prune", {})]
    steering, folder, job = SmartTunerCallback("job"), FOLDER / "trainer", Bare()

    class Watching(transformers.TrainerCallback):
        daemon, placed = None, 0

        def on_train_begin(self, args, state, control, optimizer=None, **parts):
            getattr(optimizer, "optimizer", optimizer).register_step_pre_hook(partial(Job._note, job))
            self.daemon = Daemon(steering.run) if dist.get_rank() == 0 else None

        def on_step_begin(self, args, state, control, **parts):
            job.steps = state.global_step
            if self.daemon is not None and len(self.daemon.read()) == self.placed and self.placed < len(orders):
                action, params = orders[self.placed]
                self.daemon.order(action, **params)
                self.placed += 1

        def on_train_end(self, args, state, control, **parts):
            job.steps = state.global_step
            SEEN.update(acks=self.daemon.read() if self.daemon is not None else {})

    args = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=2000, learning_rate=0.1, lr_scheduler_type="constant", logging_steps=50, seed=3,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    rows = [{"inputs": torch.randn(4), "labels": torch.randn(1)} for _ in range(64)]
    transformers.Trainer(Regression(), args, train_dataset=rows, callbacks=[steering, Watching()]).train()
    SEEN.update(saved=sorted(path.name for path in folder.iterdir()))
    return job


class Bare:
    """Steps that all ranks do together, without an optimizer."""

    def __init__(self):
        self.steps, self.lrs = 0, []

    def step(self):
        self.steps += 1
        dist.all_reduce(torch.ones(1))

    def digest(self):
        return ""


def restarted():
    """Is pruned, but fails; its launcher starts it again: then it shall not train."""
    life = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    job = Bare()
    run = smarttuner.attach()
    daemon = Daemon(run) if dist.get_rank() == 0 else None
    if daemon is not None and life == 0:
        daemon.order("prune")
    while not run.should_stop and job.steps < MOST_STEPS:
        job.step()
        run.step()
    if daemon is not None:
        daemon.read()
        SEEN.update(run=run.run, attempt=run.attempt, parent=daemon.started.parent, acks=daemon.acks)
    SEEN.update(stop=run.stop_reason)
    run.finish()
    if life == 0:
        report(job, f"life-{life}")
        while len(list(FOLDER.glob(f"life-{life}-*.json"))) < dist.get_world_size():
            time.sleep(0.02)  # the launcher ends the others as soon as one fails
        os._exit(3)
    return job


def report(job, way):
    SEEN.update(rank=dist.get_rank(), steps=job.steps, lrs=job.lrs, digest=job.digest())
    path = FOLDER / f"{way}-{dist.get_rank()}.json"
    path.with_suffix(".new").write_text(json.dumps(SEEN))
    path.with_suffix(".new").rename(path)  # whole, before anybody sees it


WAYS = {
    "steered": steered,
    "identical": identical,
    "under-faults": under_faults,
    "sharded": sharded,
    "framework": framework,
    "dies-before-vote": lambda: dies(after=False),
    "dies-after-vote": lambda: dies(after=True),
}


def be_rank(way, rank, port):
    """In a child of its own; never returns."""
    code = 1
    try:
        os.dup2(os.open(FOLDER / f"{way}-{rank}.err", os.O_CREAT | os.O_WRONLY), 2)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", XDG_STATE_HOME=str(FOLDER / way))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo")
        report(WAYS[way](), way)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(ways):
    torch.optim.SGD([torch.zeros(1)])  # loads what torch loads late, once for all
    for way in ways:
        pids = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(2):
            pid = os.fork()
            if pid == 0:
                be_rank(way, rank, port)
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        (FOLDER / f"{way}.codes").write_text(json.dumps(codes))


if __name__ == "__main__":
    FOLDER = pathlib.Path(sys.argv[1])
    if sys.argv[2] == "restarted":
        dist.init_process_group("gloo")
        report(restarted(), "life-" + os.environ["TORCHELASTIC_RESTART_COUNT"])
        dist.destroy_process_group()
    else:
        main(sys.argv[2:])
