"""What the job's side costs: the hooks around an optimizer's step, a copy of the best weights, a whole small training.

.venv/bin/python benchmarks/hooks.py [hooks] [best] [inside] [training] [processes] [--rounds N] [--steps N]

How a figure of a microsecond, or of a percent, is had from a noisy machine: attached and unattached steps run in **one
process**, on the same tensors, in short blocks that follow each other as unattached, attached, attached, unattached (ABBA).
A drift that is linear over the four cancels, whatever is slower cancels from block to block. "Unattached" takes the hooks
out of torch again and calls no log(); only the attachment's objects stay in memory. Each four blocks give one difference
and one ratio; what is printed is the median over many fours with its bootstrap interval (95 %), of wall time and of CPU time,
which another process moves least. A control row compares unattached with unattached: what it shows is noise.

Before each timed block of `hooks` runs one like it, untimed: blocks that begin cold, or pay for what the last one displaced,
measure the toggle, which no training makes.

`training` times blocks of `--steps` steps: a daemon asks for its bell fifty times a second, which is once in ten steps of 2 ms, and
only blocks longer than that hold as many bells as a training does. Where neighbours make one step in four half as long again, such
blocks have intervals of 5 %; `--steps 1 --rounds 4000` has 0.4 % there, the shortest way from a step to its counterpart, but every
fifth attached step rings then. Half of the fours, drawn at random, are BAAB: what comes round every few steps (Python's collector,
the allocator) meets the same places of each four, and a control of single steps in ABBA alone read -0.2 %.

A training's step is hundreds of times longer than what is added to it, so that a difference of two such steps is noise long
before it is a percent. `inside` therefore times the added calls themselves, where they happen: log() and both hooks (the
one behind with the step boundary) of every step of the training, in the thread's CPU time, with all that the step leaves cold in
the caches. At every second step the time is taken of a call of nothing in each of the three places instead, just before the
call itself: that is the timer's own cost there, and is taken off. The median of a block's calls is divided by the median of that
very block's steps, so that a slow moment is slow in both. What it cannot see (what our calls make slower in the steps around
them) the difference of `training` bounds.

`processes` compares whole processes instead, attached and without a word of Smart Tuner, in the same order, minima of
blocks within them: it sees what a toggle cannot (import, memory), and is coarser.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

Block = Callable[[], object]
STEPS_OF_HOOKS, STEPS_OF_TRAINING, STEPS_OF_BLOCK, BOOTSTRAPS = 500, 10, 40, 1000
STEP_MS = 2.0
"""So long a training's step is meant to take."""
SIDES = (False, True, True, False)


class Spent(NamedTuple):
    """Nanoseconds of a block: of the clock, and of this process's CPU, threads and kernel included."""

    wall: float
    cpu: float


class Compared(NamedTuple):
    """Of one clock: the unattached block's median, per four the attached minus the unattached, and their ratio."""

    base: float
    least: float
    extra: list[float]
    ratio: list[float]


def spent(block: Block, steps: int) -> Spent:
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    block()
    return Spent((time.perf_counter_ns() - wall) / steps, (time.process_time_ns() - cpu) / steps)


def fours(off: Block, on: Block, toggle: Callable[[bool], object], rounds: int, steps: int) -> dict[str, Compared]:
    """`rounds` times off, on, on, off; nanoseconds a step."""
    found: list[list[Spent]] = []
    for number in range(rounds + 2):
        four = []
        for attached in SIDES:
            toggle(attached)
            block = on if attached else off
            block()  # the caches are as this side leaves them
            four.append(spent(block, steps))
        if number >= 2:  # the first ones warm up
            found.append(four)
    toggle(False)
    return {clock: compared([[getattr(one, clock) for one in four] for four in found]) for clock in Spent._fields}


def compared(found: list[list[float]]) -> Compared:
    bases, withs = [(a + d) / 2 for a, _, _, d in found], [(b + c) / 2 for _, b, c, _ in found]
    pairs = list(zip(withs, bases, strict=True))
    least = min(min(b, c) for _, b, c, _ in found) - min(min(a, d) for a, _, _, d in found)
    return Compared(statistics.median(bases), least, [w - b for w, b in pairs], [w / b for w, b in pairs])


def interval(found: list[float]) -> tuple[float, float, float]:
    """The median and its bootstrap interval (95 %)."""
    drawn = random.Random(0)
    medians = sorted(statistics.median(drawn.choices(found, k=len(found))) for _ in range(BOOTSTRAPS))
    return statistics.median(found), medians[BOOTSTRAPS // 40], medians[-BOOTSTRAPS // 40]


def shown(found: tuple[float, float, float], unit: float = 1.0, digits: int = 0) -> str:
    middle, low, high = (one * unit for one in found)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


@contextmanager
def attached(optimizer: Any, override: bool, data: Path | None = None, mode: str = "act") -> Iterator[Any]:
    """A real attachment, whose decision would be an LR override at half."""
    import smarttuner
    from smarttuner.core.intent import LrIntent

    run = smarttuner.attach("benchmark", optimizer=optimizer, mode=mode, data_dir=data)
    assert run._line is not None
    for steering in run._line.steerings:
        steering.want(LrIntent(0.5, None, 1) if override else LrIntent())
    yield run
    run.finish()
    assert not run.failures


def toggler(run: Any) -> Callable[[bool], None]:
    """Puts the attachment's hooks into torch and takes them out."""
    from smarttuner.trainer.step_hooks import HOOKS

    def toggle(on: bool) -> None:
        for steering in run._line.steerings:
            if on and steering not in HOOKS.steerings:
                HOOKS.add(steering)
            elif not on:
                HOOKS.remove(steering)

    return toggle


class Still(torch.optim.Optimizer):
    """Does nothing in its step: what is left is torch's wrapper around one, so that the hooks are not lost in arithmetic."""

    def step(self, closure: object = None) -> None:
        """Nothing."""


def hooks(rounds: int) -> None:
    """The pair of hooks and the step boundary behind it, around an empty step of one optimizer, of two and of four."""
    print("hooks of one job step: nanoseconds more than the same step unattached; median [95 %], the difference of the minima")
    for name, count, override in (
        ("idle, one optimizer", 1, False),
        ("override, one optimizer", 1, True),
        ("idle, two optimizers", 2, False),
        ("override, two optimizers", 2, True),
        ("idle, four optimizers", 4, False),
        ("override, four optimizers", 4, True),
    ):
        optimizers = [Still([torch.zeros(1, requires_grad=True)], {"lr": 1e-3}) for _ in range(count)]
        for boundary in (False, True):
            with attached(optimizers if count > 1 else optimizers[0], override) as run:
                for steering in run._line.steerings:
                    if not boundary:
                        steering.boundary = steering.calm = None
                found = fours(stepping(optimizers), stepping(optimizers), toggler(run), rounds, STEPS_OF_HOOKS)
            what = f"{name}, {'with boundary' if boundary else 'the pair alone'}"
            cpu, wall = found["cpu"], found["wall"]
            print(
                f"{what:44} CPU {shown(interval(cpu.extra)):>22}  wall {shown(interval(wall.extra)):>22}  minima {cpu.least:6.0f}  "
                f"unattached {cpu.base:6.0f}  ratio {statistics.median(cpu.ratio):.2f}",
                flush=True,
            )


def stepping(optimizers: list[Any]) -> Block:
    def block() -> None:
        for _ in range(STEPS_OF_HOOKS):
            for optimizer in optimizers:
                optimizer.step()

    return block


def best(rounds: int) -> None:
    """keep-best's own copy beside a deepcopy of the state_dict, and beside copying into tensors that are already there."""
    from smarttuner.core.clock import SystemClock
    from smarttuner.trainer.keep_best import KeepBest

    print("best weights into memory: milliseconds a copy, median (least); ratio to deepcopy(state_dict()), median [95 %]")
    for width, layers in ((256, 16), (2048, 6)):
        model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
        size = sum(one.numel() * one.element_size() for one in model.state_dict().values()) / 1e6
        keeper, kept = KeepBest(model, SystemClock()), [copy.deepcopy(model.state_dict())]
        keeper.start("loss", "min")
        numbers = iter(range(1_000_000))

        def keep(keeper: Any = keeper, numbers: Iterator[int] = numbers) -> None:
            number = next(numbers)
            assert keeper.offer(number, {"loss": -number})

        def deep(model: Any = model, kept: list[Any] = kept) -> None:
            kept[0] = copy.deepcopy(model.state_dict())

        there = copy.deepcopy(model.state_dict())

        def into(model: Any = model, there: Any = there) -> None:
            for name, one in model.state_dict().items():
                there[name].copy_(one)

        ways: dict[str, Block] = {"keep-best": keep, "deepcopy(state_dict())": deep, "copy_ into kept tensors": into}
        taken: dict[str, list[Spent]] = {name: [] for name in ways}
        for number in range(rounds):
            for name, way in ways.items() if number % 2 else reversed(ways.items()):
                taken[name].append(spent(way, 1))
        for name, all_of in taken.items():
            cpu, wall = [one.cpu / 1e6 for one in all_of], [one.wall / 1e6 for one in all_of]
            ratios = [one.cpu / other.cpu for one, other in zip(all_of, taken["deepcopy(state_dict())"], strict=True)]
            middles = f"CPU {statistics.median(cpu):8.2f} ({min(cpu):.2f})  wall {statistics.median(wall):8.2f} ({min(wall):.2f})"
            print(f"{size:6.1f} MB  {name:26} {middles}  ratio {shown(interval(ratios), digits=2)}", flush=True)


class Gpt(torch.nn.Module):
    """A small causal transformer over bytes."""

    def __init__(self, width: int = 64, context: int = 32, layers: int = 1) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.words, self.places = torch.nn.Embedding(256, width), torch.nn.Parameter(torch.zeros(context, width))
        self.body = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, 256)
        self.mask = torch.nn.Transformer.generate_square_subsequent_mask(context)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """(batch, context) of bytes to (batch, context, 256) of logits."""
        logits: torch.Tensor = self.head(self.body(self.words(text) + self.places, mask=self.mask, is_causal=True))
        return logits


class Training:
    """Its step computes the five values whether or not somebody takes them. Of as many texts as bring it nearest to STEP_MS."""

    texts = 0
    steps = 20
    """Of a block of `training`."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        Training.texts = fitting()
        self.begin(Training.texts)

    def begin(self, texts: int) -> None:
        """A new model, and as many texts of 32 bytes a step."""
        torch.manual_seed(0)
        self.model = Gpt()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.text = torch.randint(0, 256, (texts, 33))
        self.step = 0

    def block(self, log: Callable[..., object] | None, steps: int = STEPS_OF_TRAINING) -> None:
        """`steps` steps, each logged where `log` is given."""
        for _ in range(steps):
            logits = self.model(self.text[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.text[:, 1:].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            value = loss.item()
            said = {"loss": value, "norm": norm.item(), "bits": value / 0.693, "tokens": self.step * 64.0, "epoch": self.step / 1e3}
            if log is not None:
                log(said, step=self.step)


def fitting() -> int:
    """With how many texts a step comes nearest to STEP_MS, the median of a hundred."""
    if Training.texts:
        return Training.texts
    texts, before, trial = 1, 0.0, Training.__new__(Training)
    while True:
        trial.begin(texts)
        trial.block(None, 20)
        took = statistics.median(spent(lambda: trial.block(None, 1), 1).cpu for _ in range(100)) / 1e6
        if took >= STEP_MS:
            nearest, takes = (texts - 1, before) if STEP_MS - before < took - STEP_MS and before else (texts, took)
            print(f"a step of {nearest} texts of 32 bytes takes {takes:.2f} ms", flush=True)
            return nearest
        texts, before = texts + 1, took


def training(rounds: int) -> None:
    """A small GPT, attached and unattached in turns, without a daemon and beside one."""
    from fleet import Daemon

    print("a small GPT on one thread, five values logged a step: median of the ratio attached / unattached [95 %]")
    for beside in (False, True):
        with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder)) if beside else nullcontext() as daemon:
            where = "beside a daemon" if beside else "no daemon"
            data = daemon.data if daemon is not None else None
            if daemon is not None:
                os.environ["XDG_STATE_HOME"] = daemon.environment["XDG_STATE_HOME"]
            for name, mode, override, logs in (
                ("control: unattached twice", "observe", False, False),
                ("observe", "observe", False, True),
                ("act with override", "act", True, True),
            ):
                compare_training(f"{name}, {where}", (mode, override, logs), data, rounds)


def compare_training(what: str, how: tuple[str, bool, bool], data: Path | None, rounds: int) -> None:
    """One row; `how` is mode, override, and whether the attached steps are attached at all."""
    (mode, override, logs), job = how, Training()
    job.block(None, 200)
    with attached(job.optimizer, override, data, mode) as run:
        toggle = toggler(run) if logs else (toggler(run)(False), lambda on: None)[1]
        drawn = random.Random(0)
        fours_of = [four_of_steps(job, run.log if logs else None, toggle, drawn.random() < 0.5) for _ in range(rounds)]
        toggle(False)
    cpu, wall = (compared([[getattr(one, clock) for one in four] for four in fours_of]) for clock in ("cpu", "wall"))
    percent = [shown(interval([100 * (one - 1) for one in found.ratio]), digits=2) for found in (cpu, wall)]
    print(
        f"{what:42} step {cpu.base / 1e6:.2f} ms; more CPU: {percent[0]} %, {shown(interval(cpu.extra), 1e-3, 1)} us a step; "
        f"more wall: {percent[1]} %",
        flush=True,
    )


def four_of_steps(job: Training, log: Callable[..., object] | None, toggle: Callable[[bool], object], inverse: bool) -> list[Spent]:
    """What a step takes, the mean of a block, of each side behind steps of its kind: off, on, on, off, whichever came first."""
    found: tuple[list[Spent], list[Spent]] = [], []
    for side in SIDES:
        on = side != inverse
        toggle(on)
        block = log if on else None
        job.block(block, 1)  # the caches are as this side leaves them
        found[on].append(spent(partial(job.block, block, Training.steps), Training.steps))
    (first, last), (second, third) = found
    return [first, second, third, last]


class Timed:
    """Calls of one function in the thread's CPU time. Of every second one the time is taken; before each of the others, in the very
    same place, that of a call of nothing: what the timer costs where it is as cold as the function finds it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._taken: list[int] = []
        self._empty: list[int] = []
        self._timed = False

    def __call__(self, *args: Any, **more: Any) -> Any:
        self._timed = not self._timed
        called, noted = (self._function, self._taken) if self._timed else (nothing, self._empty)
        before = time.thread_time_ns()
        result = called(*args, **more)
        noted.append(time.thread_time_ns() - before)
        return result if self._timed else self._function(*args, **more)

    def taken(self) -> tuple[float, float]:
        """Nanoseconds of the median call without the timer's own, and that; those before are forgotten."""
        taken, empty = statistics.median(self._taken), statistics.median(self._empty)
        self._taken, self._empty = [], []
        return max(0.0, taken - empty), empty


def nothing(*_: Any, **__: Any) -> None:
    """Does nothing."""


def inside(rounds: int) -> None:
    """What log() and the hooks take within the training, and which part of the training's step that is."""
    print("a small GPT on one thread, five values a step; what our calls take inside its steps: us a step, median [95 %]")
    for name, mode, override in (
        ("observe", "observe", False),
        ("act, no decision", "act", False),
        ("act with override", "act", True),
    ):
        job = Training()
        job.block(None, 200)
        with attached(job.optimizer, override, None, mode) as run:
            times, rest = timed_blocks(job, run, rounds)
        each = [shown(interval([1e-3 * one for one in parts]), digits=2) for parts in zip(*times, strict=True)]
        share = [100 * sum(parts) / step for parts, step in zip(times, rest, strict=True)]
        print(
            f"{name:18} log {each[0]}  before {each[1]}  after {each[2]}; all of it {shown(interval(share), digits=3)} % of the "
            f"step ({statistics.median(rest) / 1e6:.2f} ms, least {min(rest) / 1e6:.2f}); least together "
            f"{min(map(sum, times)) / 1e3:.2f} us",
            flush=True,
        )


def timed_blocks(job: Training, run: Any, rounds: int) -> tuple[list[list[float]], list[float]]:
    """Of each block: nanoseconds of the median log(), hook before and hook behind; and of a step without them."""
    import torch.optim.optimizer as registry

    hooked = []
    for table in (registry._global_optimizer_pre_hooks, registry._global_optimizer_post_hooks):
        ((key, function),) = table.items()
        table[key] = Timed(function)
        hooked.append(table[key])
    timers, times, rest = [Timed(run.log), *hooked], [], []
    for number in range(rounds + 2):
        steps = [spent(lambda: job.block(timers[0], 1), 1).cpu for _ in range(STEPS_OF_BLOCK)]
        found = [one.taken() for one in timers]
        if number >= 2:  # the first ones warm up
            times.append([taken for taken, _ in found])
            rest.append(statistics.median(steps) - sum(taken + empty for taken, empty in found))
    return times, rest


def processes(rounds: int) -> None:
    """Whole processes, one after the other: without, attached, attached, without."""
    fours_of: list[list[list[float]]] = []
    texts = fitting()
    for _ in range(rounds):
        four = []
        for on in SIDES:
            command = [sys.executable, __file__, "job", *(["on"] if on else []), "--texts", str(texts)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            four.append(json.loads(done.stdout.splitlines()[-1]))
        fours_of.append(four)
    print("whole processes, act without a decision, no daemon: what the attached step takes more")
    for number, clock in enumerate(("CPU, least block", "CPU, median block")):
        found = compared([[one[number] for one in four] for four in fours_of])
        more = [100 * (one - 1) for one in found.ratio]
        print(f"{clock:20} step {found.base / 1e6:.3f} ms; more {shown(interval(more), digits=2)} %", flush=True)


def job(on: bool) -> None:
    """One process of `processes`: nanoseconds of CPU a step, of its least and its median block."""
    made = Training()
    with attached(made.optimizer, False) if on else nullcontext() as run:
        made.block(None if run is None else run.log, 300)
        block = lambda: made.block(None if run is None else run.log)  # noqa: E731  # said once
        found = [spent(block, STEPS_OF_TRAINING).cpu for _ in range(100)]
    print(json.dumps([min(found), statistics.median(found)]))


WAYS = {
    "hooks": (hooks, 80),
    "best": (best, 40),
    "inside": (inside, 100),
    "training": (training, 400),
    "processes": (processes, 6),
}


def main() -> None:
    """What is named, in a state directory of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[[], *WAYS, "job", "on"])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--texts", type=int, default=0, help="of a training's step; else as many as take 2 ms")
    parser.add_argument("--steps", type=int, default=Training.steps, help="of a block of `training`")
    given = parser.parse_args()
    torch.set_num_threads(1)
    Training.texts, Training.steps = given.texts, given.steps
    if "job" in given.what:
        job("on" in given.what)
        return
    from fleet import machine

    for what in given.what or ("hooks", "best", "inside", "training"):
        way, rounds = WAYS[what]
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_STATE_HOME"] = os.environ["SMART_TUNER_DATA_DIR"] = folder
            print(machine())
            way(given.rounds or rounds)
    print(machine())


if __name__ == "__main__":
    main()
