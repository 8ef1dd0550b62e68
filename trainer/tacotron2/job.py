"""One Tacotron 2 training from its settings to its end, and speaking from a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UsageError
from ..attach import attach
from .board import EventFiles
from .checkpoint_files import CheckpointFolder, Saver, found_at
from .dataset import Feeder, MelCache, Order, load
from .evaluation import speak
from .front_end import sound
from .machine import Machine, leave, machine
from .model import Tacotron2
from .progress import Progress
from .settings import Board, Front, Recipe, Settings
from .text import tokens_of
from .training import Outcome, Training, fresh_state

FRAMES_A_TOKEN = 20


@dataclass(frozen=True)
class Job:
    """What to train, on what, and where it writes. `out` holds checkpoints and samples, `cache` mels (None: not kept)."""

    settings: Settings
    dataset: Path
    out: Path
    name: str
    cache: Path | None = None
    resume: bool = False
    group: str | None = None
    data_dir: Path | None = None
    bus: str | None = None
    threads: int = 1


def train(job: Job, environ: Mapping[str, str]) -> Outcome:
    """Trains, attached as `job.name`, until it is done or told to stop."""
    progress = Progress(job.settings.recipe.steps)
    make_repeatable(job)
    here = machine(job.settings.resources, environ, progress.tell)
    files = CheckpointFolder(job.out / "checkpoints", job.settings.saving)
    if here.first:
        files.open()
    try:
        training = _prepared(job, here, files, progress)
        with _signals(training):
            return _attached(job, training)
    finally:
        if here.first:
            files.close()
        leave(here)


def make_repeatable(job: Job) -> None:
    """Seed, deterministic kernels, cuDNN's choice and threads, as configured."""
    settings = job.settings
    torch.set_num_threads(job.threads)
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(settings.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that writes all memory twice; none is read unset
    torch.backends.cudnn.benchmark = settings.benchmark_mode and not settings.deterministic


def _prepared(job: Job, here: Machine, files: CheckpointFolder, progress: Progress) -> Training:
    settings = job.settings
    splits = load(job.dataset, MelCache(settings.front, job.cache), settings.seed)
    order = Order([len(one.mel) for one in splits.train], settings.recipe.batch_size, settings.seed)
    if order.batch_size < here.world:
        raise UsageError(f"{here.world} ranks share batches of {order.batch_size}", "raise batch_size, or lower world_size")
    state = fresh_state(settings, here, splits)
    found = files.latest(progress.tell) if job.resume else None
    if found is not None:
        state.load(found[1])
        progress.tell(f"{job.name} goes on from {found[0]}")
    elif files.steps() and here.first and not job.resume:
        raise UsageError(
            f"{job.out} holds the checkpoints of another training", "go on from them with --resume, or name another --out"
        )
    progress = Progress(settings.recipe.steps, state.step)
    feeder = Feeder(splits, settings.front, settings.techniques, order, (here.rank, here.world))
    board = EventFiles(settings.board, job.name, progress.tell) if here.first else EventFiles(Board(), "", progress.tell)
    saver = Saver(files, progress.tell)
    return Training(state, splits, feeder, here, files, saver, board, progress, job.out / "samples")


def _attached(job: Job, training: Training) -> Outcome:
    state, settings = training.state, job.settings
    run = attach(
        job.name,
        optimizer=state.optimizer,
        model=state.model,
        scheduler=state.schedule,
        scaler=state.scaler,
        monitor=settings.monitor,
        goal="max" if settings.monitor in ("alignment_score", "audio_quality_score", "text_use") else "min",
        checkpoint=training.save_to,
        restore=training.load_from,
        group=job.group,
        config=settings.told(),
        resume_from_step=state.step or None,
        total_steps=settings.recipe.steps,
        data_dir=job.data_dir,
        bus=job.bus,
    )
    with run:
        outcome = training.run(run)
        training.progress.end()
        training.board.close()
        if outcome.ended == "interrupted" and outcome.signal:
            run.end("failed", f"{signal.Signals(outcome.signal).name} at step {outcome.step}, saved")
    return outcome


@contextmanager
def _signals(training: Training) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the training after its step, with a checkpoint; a second Ctrl-C ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, frame: FrameType | None) -> None:
        if training.stopping:
            raise KeyboardInterrupt
        training.stopping = number
        training.progress.tell(f"{signal.Signals(number).name}: ends after this step, with a checkpoint")

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Speaker:
    """A trained network that reads."""

    model: Tacotron2
    front: Front
    step: int

    def say(self, text: str) -> tuple[Tensor, bool]:
        """Samples (L) at front.sample_rate, and whether it stopped by itself."""
        tokens = tokens_of(text)
        mels, spoken = speak(self.model, [tokens], FRAMES_A_TOKEN * len(tokens))
        return sound(mels[0], self.front), bool(spoken.stopped[0])


def speaker(place: Path, told: Any) -> Speaker:
    """The network of a checkpoint: a training's folder, one of its step-N, or the file in it."""
    path, saved = found_at(place, told)
    try:
        settings, symbols = saved["settings"], saved["symbols"]
        front = Front(**_known(Front, settings["front"]))
        model = Tacotron2(len(symbols), front.n_mels, Recipe(**_known(Recipe, settings["recipe"])))
        model.load_state_dict(saved["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise UsageError(f"{path} is no Tacotron 2 checkpoint: {str(error).splitlines()[0]}", "name one that train wrote") from None
    return Speaker(model.eval(), front, int(saved["step"]))


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
