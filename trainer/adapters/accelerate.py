"""Accelerate: `Accelerator(log_with=[SmartTunerTracker("my-run", optimizer=optimizer, model=model)])`."""

from __future__ import annotations

from typing import Any

from accelerate.tracking import GeneralTracker

from ..attach import attach
from ..attachment import Attachment


class SmartTunerTracker(GeneralTracker):  # type: ignore[misc]  # a class of an optional extra: Any to mypy
    """A run called `run_name`, which begins with `accelerator.init_trackers(project, config)`; `options` go to `attach`.

    `tracker` (or `accelerator.get_tracker("smart_tuner", unwrap=True)`) is the run: ask it `should_stop`. The optimizer may
    be the one before or after `accelerator.prepare`.
    """

    name = "smart_tuner"
    requires_logging_directory = False
    main_process_only = False  # rank 0 logs, every rank obeys

    def __init__(self, run_name: str | None = None, **options: Any) -> None:
        super().__init__()
        self._name = run_name
        self._options = options
        self._run: Attachment | None = None

    @property
    def tracker(self) -> Attachment:
        """The run; it begins here if it has not."""
        if self._run is None:
            self.store_init_configuration({})
        assert self._run is not None
        return self._run

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Begins the run with `values` as its config."""
        if self._run is None:
            options = {"config": values} | self._options
            optimizer = options.get("optimizer")
            options["optimizer"] = _bare(optimizer)
            self._run = attach(self._name, **options)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Values of one step; what is no number is left out."""
        self.tracker.log({name: value for name, value in values.items() if not isinstance(value, str)}, step=step)

    def finish(self) -> None:
        """The run ends; `accelerator.end_training()` calls this."""
        if self._run is not None:
            self._run.finish()


def _bare(optimizer: Any) -> Any:
    """Without the wrapper that `accelerator.prepare` puts around an optimizer."""
    if isinstance(optimizer, dict):
        return {name: _bare(one) for name, one in optimizer.items()}
    if isinstance(optimizer, list | tuple):
        return [_bare(one) for one in optimizer]
    return getattr(optimizer, "optimizer", optimizer)
