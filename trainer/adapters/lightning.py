"""Lightning: `Trainer(callbacks=[SmartTunerCallback()])`, with `logger=SmartTunerLogger(...)` where it shall have a name."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyExperiment, Logger

from ..attach import attach
from ..attachment import Attachment
from ..parts import load_into
from ..raised import described

try:
    from lightning.pytorch.callbacks import WeightAveraging
except ImportError:  # before 2.6
    WeightAveraging = None


class SmartTunerLogger(Logger):  # type: ignore[misc]  # a class of an optional extra: Any to mypy
    """What a Lightning module logs, as a run called `name`; `options` go to `attach`. Without the callback below the run is
    only observed: a logger has no say in the training."""

    def __init__(self, name: str | None = None, **options: Any) -> None:
        super().__init__()
        self._name = name
        self._options = options
        self._config: dict[str, Any] = {}
        self._run: Attachment | None = None
        self.folder: str | None = None
        """That of a Trainer which was given no logger: code of the job's that asks for one then finds ours, and it takes anything
        as Lightning's own DummyLogger does."""

    def __getattr__(self, name: str) -> Any:
        if self.__dict__.get("folder") is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return _nothing

    @property
    def save_dir(self) -> str | None:
        """The Trainer's own folder where it was given no logger, which its `log_dir` is then."""
        return self.folder

    @property
    def name(self) -> str | None:
        """The run's name."""
        return self._run.run if self._run is not None else self._name

    @property
    def version(self) -> str | None:
        """The attempt."""
        return self._run.attempt if self._run is not None else None

    @property
    def experiment(self) -> Attachment | DummyExperiment | None:
        """The run, as `attach` gives it; None until the training has begun, for Lightning asks before it is set up."""
        return self._run if self.folder is None else DummyExperiment()

    def attach(self, **given: Any) -> Attachment:
        """Attaches anew, with what the callback knows of the training."""
        if self._run is not None:
            self._run.finish()
        options = given | self._options
        self._run = attach(self._name, **({"config": self._config} | options))
        return self._run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Values of one step; ranks above 0 take them and do nothing."""
        run = self._run if self._run is not None else self.attach(mode="observe")
        run.log({name: value for name, value in metrics.items() if name != "epoch"}, step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run's `config`; what comes after it has begun is not told."""
        self._config |= vars(params) if isinstance(params, Namespace) else dict(params)

    def finalize(self, status: str) -> None:
        """The training is over, as `success` or otherwise."""
        run, self._run = self._run, None
        if run is not None:
            run.end("finished" if status in ("success", "finished") else "failed", None if status == "success" else status)


class SmartTunerCallback(Callback):  # type: ignore[misc]  # a class of an optional extra: Any to mypy
    """Steers the training that Lightning runs. What is judged is what its EarlyStopping or ModelCheckpoint watches."""

    def __init__(self, name: str | None = None, **options: Any) -> None:
        self.logger: SmartTunerLogger | None = None
        self._mine = SmartTunerLogger(name, **options)
        self._run: Attachment | None = None
        self._alone = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The logger that was given to the Trainer, else one of our own beside the others; beside none only while it trains, for
        where checkpoints go is named after a logger where there is one. Weights are put back after an average of this step's
        was taken, not before."""
        if stage == "fit":
            if averaging(trainer):
                trainer.callbacks = [*(one for one in trainer.callbacks if one is not self), self]
            given = [one for one in trainer.loggers if isinstance(one, SmartTunerLogger)]
            self.logger = given[0] if given else self._mine
            self._alone = not trainer.loggers
            if not given and not self._alone:
                trainer.loggers = [*trainer.loggers, self._mine]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attaches, on every rank: optimizers stand, and a checkpoint to resume from has been loaded."""
        if self.logger is None:
            return
        if self._alone:
            self._mine.folder = trainer.default_root_dir
            self._mine.log_hyperparams(dict(pl_module.hparams_initial))
            trainer.loggers = [*trainer.loggers, self._mine]
        monitor, goal = judged(trainer)
        self._run = self.logger.attach(
            optimizer=list(trainer.optimizers),
            model=validated(trainer, pl_module),
            monitor=monitor,
            goal=goal,
            checkpoint=trainer.save_checkpoint,
            restore=lambda path: _load(trainer, pl_module, path),
            total_steps=trainer.max_steps if trainer.max_steps > 0 else None,
            resume_from_step=trainer.global_step or None,
        )
        self._run.step_by_hand()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """The step boundary: Lightning's own counters have moved on, so that what is saved here can be resumed from."""
        if self._run is not None:
            self._run.step(max(0, trainer.global_step - 1))  # Lightning logs the first step as 0
            if self._run.should_stop:
                trainer.should_stop = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The training raised."""
        if self._run is not None:
            self._run.end("failed", described(exception))
            self._run = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run ends."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A Trainer without a logger has none again."""
        if self._alone and stage == "fit":
            self._mine.finalize("success")
            trainer.loggers = [one for one in trainer.loggers if one is not self._mine]


def _nothing(*_: Any, **__: Any) -> None:
    pass


def judged(trainer: Trainer) -> tuple[str | None, Any]:
    """Monitor and goal of the EarlyStopping, else of the ModelCheckpoint; None where neither watches anything."""
    watching = [*trainer.early_stopping_callbacks, *trainer.checkpoint_callbacks]
    for one in watching:
        monitor, mode = getattr(one, "monitor", None), getattr(one, "mode", None)
        if monitor and mode in ("min", "max"):
            return str(monitor), mode
    return None, None


def validated(trainer: Trainer, module: LightningModule) -> Any:
    """What to keep of the model: the module, and with it the average that stands in for it while Lightning validates."""
    averages = [one._average_model for one in averaging(trainer) if one._average_model is not None]
    return {"module": module, **{f"average {number}": one for number, one in enumerate(averages)}} if averages else module


def averaging(trainer: Trainer) -> list[Any]:
    """The callbacks that average weights (EMA): they swap the average in before a validation and out before it is logged."""
    return [one for one in trainer.callbacks if WeightAveraging is not None and isinstance(one, WeightAveraging)]


def _load(trainer: Trainer, module: LightningModule, path: str) -> None:
    """Weights and moments of a checkpoint; loops, schedules and learning rates go on from where the training is."""
    saved = trainer.strategy.load_checkpoint(path, weights_only=True)
    trainer.strategy.load_model_state_dict(saved)
    for one in averaging(trainer):
        one.on_load_checkpoint(trainer, module, saved)  # a checkpoint has the average in the module's place
    for optimizer, state in zip(trainer.optimizers, saved["optimizer_states"], strict=True):
        load_into(optimizer, state)
