"""Hugging Face Trainer: `Trainer(..., callbacks=[SmartTunerCallback()])`. The Trainer logs, stops and saves; this asks it to."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..attach import attach
from ..attachment import Attachment
from ..control import Later


class SmartTunerCallback(TrainerCallback):  # type: ignore[misc]  # a class of an optional extra: Any to mypy
    """A run for each `trainer.train()`, named `name` or as `TrainingArguments.run_name`. `options` go to `attach`.

    What is judged is what the Trainer was told: `metric_for_best_model` and `greater_is_better`. A prune sets
    `control.should_training_stop`, a checkpoint `control.should_save`; it is answered with the folder that was written.
    """

    def __init__(self, name: str | None = None, **options: Any) -> None:
        self.run: Attachment | None = None
        self._name = name
        self._options = options
        self._saving = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Attaches: model and optimizer stand by now, on every rank."""
        self._saving = False
        monitor, goal = judged(args)
        optimizer = parts.get("optimizer")
        given: dict[str, Any] = {
            "optimizer": getattr(optimizer, "optimizer", optimizer),  # Accelerate's wrapper around the one that steps
            "model": parts.get("model"),
            "monitor": monitor,
            "goal": goal,
            "checkpoint": self._ask_to_save,
            "config": args.to_sanitized_dict(),
            "total_steps": state.max_steps if state.max_steps > 0 else None,
            "resume_from_step": state.global_step or None,
        }
        self.run = attach(self._name or run_name(args), **(given | self._options))
        self.run.step_by_hand()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> TrainerControl:
        """The step boundary: schedule and counters have moved on, so that what is saved here can be resumed from."""
        if self.run is not None:
            self.run.step(state.global_step)
            control.should_save = control.should_save or self._saving
            control.should_training_stop = control.should_training_stop or self.run.should_stop
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """The Trainer has saved."""
        if self._saving and self.run is not None:
            self._saving = False
            self.run.completed(os.path.join(str(args.output_dir), f"checkpoint-{state.global_step}"))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """A new step: what was to be saved in the last one has not been."""
        self._give_up_saving()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **parts: Any,
    ) -> None:
        """Every number the Trainer logs, under its own names; an evaluation's before the next step, so the best is caught."""
        if self.run is not None and logs:
            numbers = {name: value for name, value in logs.items() if isinstance(value, int | float) and name != "epoch"}
            self.run.log(numbers, step=state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """The run ends; a training that raises ends it as failed, when its process does."""
        self._give_up_saving()
        if self.run is not None:
            self.run.finish()
            self.run = None

    def _ask_to_save(self, path: str) -> None:
        self._saving = True
        raise Later

    def _give_up_saving(self) -> None:
        if self._saving and self.run is not None:
            self._saving = False
            self.run.completed(None, "the Trainer did not save")


def judged(args: TrainingArguments) -> tuple[str | None, Any]:
    """Monitor and goal as the Trainer understands them: an evaluation's metric by its logged name; None where none is set."""
    metric = args.metric_for_best_model
    if not metric:
        return None, None
    monitor = metric if metric.startswith("eval_") else f"eval_{metric}"
    greater = args.greater_is_better
    if greater is None:
        greater = not metric.endswith("loss")
    return monitor, "max" if greater else "min"


def run_name(args: TrainingArguments) -> str | None:
    """What a person called the run; older Trainers put the output folder there by themselves."""
    name = getattr(args, "run_name", None)
    return name if name and name != args.output_dir else None
