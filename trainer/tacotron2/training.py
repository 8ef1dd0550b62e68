"""The loop of a Tacotron 2 training: one step after the other, attached, judged, saved, ended cleanly."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...core.errors import UsageError
from ..parts import random_state
from .board import EventFiles, picture, save_picture
from .checkpoint_files import BY_ORDER, CheckpointFolder, Saver, read_folder, write_folder
from .dataset import Feeder, Splits
from .evaluation import SAMPLES, Judgement, evaluate, listen, summary, write_samples
from .losses import Counts, counts_of, losses
from .machine import Machine, optimizer_of
from .model import Tacotron2
from .progress import Progress
from .settings import Recipe, Settings
from .text import SYMBOLS

FORM = 1


class Run(Protocol):
    """What the loop asks of the attachment."""

    @property
    def should_stop(self) -> bool: ...
    @property
    def stop_reason(self) -> str | None: ...
    def log(self, values: Mapping[str, Any], step: int | None = None) -> None: ...


@dataclass
class State:
    """Everything that changes while training and that a resumed training needs: the network, Adam, the schedule, the step."""

    model: Tacotron2
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    settings: Settings
    step: int = 0
    best: float | None = None
    cpu_s: float = 0.0
    """CPU seconds that the steps took, those of earlier parts of a resumed training included; of this rank alone."""

    def saved(self) -> dict[str, Any]:
        """The live state, in forms that `torch.load(weights_only=True)` reads."""
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        told = {
            "form": FORM,
            "step": self.step,
            "best": self.best,
            "cpu_s": self.cpu_s,
            "settings": self.settings.told(),
            "symbols": SYMBOLS,
        }
        return told | {name: one.state_dict() for name, one in parts.items()} | {"random": random_state()}

    def load(self, saved: Mapping[str, Any], weights_only: bool = False) -> None:
        """Goes on from a saved state; UsageError where it is another network's."""
        try:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if weights_only:
                return
            self.schedule.load_state_dict(saved["schedule"])
            self.scaler.load_state_dict(saved["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"the checkpoint is another network's: {str(error).splitlines()[0]}",
                "resume with the configuration it was trained with",
            ) from None
        self.step, self.best, self.cpu_s = int(saved["step"]), saved["best"], float(saved.get("cpu_s", 0.0))


def fresh_state(settings: Settings, machine: Machine, splits: Splits) -> State:
    """The state before the first step; the same seed gives the same weights."""
    torch.manual_seed(settings.seed)
    limits, recipe = settings.resources, settings.recipe
    model = Tacotron2(len(SYMBOLS), settings.front.n_mels, recipe, limits.activation_checkpointing, limits.gradient_checkpointing)
    model.mel_mean.copy_(splits.mean)
    model.mel_deviation.copy_(splits.deviation)
    model.to(machine.device)
    offload = limits.cpu_offload and machine.device.type == "cuda"
    optimizer = optimizer_of(model.parameters(), recipe.learning_rate, recipe.weight_decay, offload)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, recipe))
    return State(model, optimizer, schedule, machine.scaler(), settings)


def rate_at(step: int, recipe: Recipe) -> float:
    """The share of the learning rate at a step: a short rise, then a straight line down to final_learning_rate.

    >>> recipe = Recipe(warmup_steps=10, steps=100, final_learning_rate=0.1)
    >>> [round(rate_at(step, recipe), 2) for step in (0, 9, 100)]
    (0.1, 0.92, 0.1)
    """
    rise = min(1.0, (step + 1) / max(recipe.warmup_steps, 1))
    return rise * (1 - (1 - recipe.final_learning_rate) * min(1.0, step / recipe.steps))


@dataclass
class Outcome:
    """How a training ended: finished, pruned or interrupted (then `signal` is its number), after which step, how good."""

    ended: str
    step: int
    values: dict[str, float] = field(default_factory=dict)
    signal: int = 0


@dataclass
class Training:
    """One rank's training. `stopping` is set by a signal to its number; all ranks end after the same step."""

    state: State
    splits: Splits
    feeder: Feeder
    machine: Machine
    files: CheckpointFolder
    saver: Saver
    board: EventFiles
    progress: Progress
    samples: Path | None = None
    stopping: int = 0
    seen: dict[str, float] = field(default_factory=dict)

    def run(self, run: Run) -> Outcome:
        """Trains until the recipe's steps are done, the run is told to stop, or a signal came; saves at the end."""
        state, recipe = self.state, self.state.settings.recipe
        network = self._network()
        if state.step == 0 and self.machine.first:
            self.board.graph(state.model)
        ended, saved_at = "finished", state.step
        while state.step < recipe.steps:
            state.model.train()
            began = time.process_time()
            told, stop = self._step(network, run)
            state.cpu_s += time.process_time() - began
            run.log(told, step=state.step)
            self._show(told)
            if state.step % recipe.evaluate_every == 0 or state.step == recipe.steps:
                saved_at = self._judge(run, saved_at)
            if state.step % state.settings.saving.every == 0 and saved_at != state.step:
                saved_at = self._save()
            if stop or self._all_told(run):
                ended = "interrupted" if self.stopping or not run.should_stop else "pruned"
                break
        if saved_at != state.step:
            self._save()
        self.saver.close()
        return Outcome(ended, state.step, self.seen, self.stopping)

    def _network(self) -> nn.Module:
        if self.machine.world == 1:
            return self.state.model
        ids = [self.machine.device.index] if self.machine.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(self.state.model, device_ids=ids, broadcast_buffers=False)

    def _step(self, network: nn.Module, run: Run) -> tuple[dict[str, float | Tensor], bool]:
        """One step on this rank's share; what it told, and whether a rank was asked to stop before it."""
        state, machine, recipe = self.state, self.machine, self.state.settings.recipe
        batch = self.feeder.batch(state.step)
        mine = counts_of(batch, recipe.reduction_factor)
        values, steps, asked = machine.summed((*mine, float(bool(self.stopping))))
        torch.manual_seed(step_seed(state.settings.seed, state.step, machine))
        batch = batch.to(machine.device)
        with machine.casting():
            output = network(batch)
        found = losses(output, batch, recipe, Counts(values, steps))
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(found.total * machine.world).backward()  # DDP takes the mean over ranks, the sum is wanted
        self._clip(recipe)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step()
        state.step += 1
        loss, attention = found.loss.detach(), found.attention.detach()
        if machine.world > 1:
            loss, attention = machine.summed((float(loss), float(attention)))
        return {"train_loss": loss, "attention_loss": attention}, asked > 0

    def _clip(self, recipe: Recipe) -> None:
        state = self.state
        if state.scaler.is_enabled():
            state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.grad_clip_thresh)

    def _all_told(self, run: Run) -> bool:
        """Whether any rank was told to stop by now, asked where all ranks stand at the same step."""
        return self.machine.summed([float(run.should_stop or bool(self.stopping))])[0] > 0

    def _judge(self, run: Run, saved_at: int) -> int:
        """Evaluates, logs, keeps the best; the step of the newest checkpoint."""
        state, settings = self.state, self.state.settings
        judged = evaluate(state.model, self.splits, settings, self.machine)
        told = judged.values | {"training_cpu_s": state.cpu_s}
        every = settings.recipe.synthesize_every
        if self.machine.first and every and (state.step % every == 0 or state.step == settings.recipe.steps):
            told |= self._listen(judged)
        self.seen |= told
        run.log(told, step=state.step)
        if self.machine.first:
            self.board.scalars(told, state.step)
            self.board.judgement(judged, state.step)
            self._tell(told)
        self._show({})
        value = told["val_loss"]
        if math.isfinite(value) and (state.best is None or value < state.best):
            state.best = value
            return self._save(value, best=True)
        return saved_at

    def _tell(self, told: Mapping[str, float]) -> None:
        values = "  ".join(f"{name} {told[name]:.4g}" for name in SHOWN if name in told)
        self.progress.tell(f"step {self.state.step}, after {self.state.cpu_s:.0f} CPU-s of steps: {values}")

    def _listen(self, judged: Judgement) -> dict[str, float]:
        heard = listen(self.state.model, self.splits.held_out[:SAMPLES], self.state.settings, self.progress.tell)
        if self.samples is not None:
            folder = self.samples / f"step-{self.state.step}"
            write_samples(heard, folder, self.state.settings)
            save_picture(picture(judged.attention.t(), 4), folder / "alignment.png")
        return summary(heard)

    def _save(self, value: float | None = None, best: bool = False) -> int:
        if self.machine.first:
            self.saver.save(self.state.step, self.state.saved(), value, best)
        return self.state.step

    def _show(self, told: Mapping[str, float | Tensor]) -> None:
        if self.machine.first:
            self.seen |= {name: float(value) for name, value in told.items()}
            self.progress.show(self.state.step, {name: self.seen[name] for name in SHOWN if name in self.seen})
            if told and self.state.step % 10 == 0:
                self.board.scalars({name: float(value) for name, value in told.items()}, self.state.step)

    def save_to(self, path: str) -> None:
        """The SDK's checkpoint=: the same form beside the file that it names."""
        place = Path(path)
        write_folder(place.parent / BY_ORDER, self.state.step, self.state.saved(), self.state.settings.saving.compression)

    def load_from(self, path: str) -> None:
        """The SDK's restore=: weights and moments; the step and the schedule go on from where the job is."""
        self.state.load(read_folder(Path(path).parent / BY_ORDER), weights_only=True)


SHOWN = ("train_loss", "val_loss", "alignment_score", "audio_quality_score")


def step_seed(seed: int, step: int, machine: Machine) -> int:
    """The seed of one step's dropout: a resumed training draws what an undisturbed one draws, on every rank."""
    return (seed * 1_000_003 + step) * 4096 + machine.rank
