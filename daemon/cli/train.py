"""`smart-tuner train`: one Tacotron 2 training, as the configuration says, attached like anyone's job."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import UsageError
from .options import BusUrl, ConfigFile, DataDir, Json, given

if TYPE_CHECKING:
    from ...trainer.tacotron2.settings import Front, Settings
    from ..config import Config

FRONT_KEYS = ("mel_fmin", "mel_fmax")
SIGNALLED = 128


def register(app: typer.Typer) -> None:
    """Adds `train`."""

    @app.command(epilog="Example: smart-tuner train --config configs/small.yaml --dataset ./speech --name first")
    def train(
        context: typer.Context,
        dataset: Annotated[Path, typer.Option("--dataset", metavar="DIR", help="A dataset in LJSpeech's form.")],
        config: ConfigFile = None,
        name: Annotated[str, typer.Option(metavar="NAME", help="The run's name.")] = "tacotron2",
        out: Annotated[Path | None, typer.Option(metavar="DIR", help="Checkpoints and samples (default ./runs/NAME).")] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint in --out.")] = False,
        steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Steps in all, over the configuration's.")] = None,
        values: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the job.")] = None,
        group: Annotated[str | None, typer.Option(metavar="GROUP", help="Runs of one group are compared.")] = None,
        threads: Annotated[int, typer.Option(min=1, metavar="N", help="CPU threads.")] = 1,
        cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Where spectrograms are kept.")] = None,
        as_json: Json = False,
        data_dir: DataDir = None,
        bus: BusUrl = None,
    ) -> None:
        """Trains Tacotron 2 on a dataset; SIGTERM, Ctrl-C and a prune end it with a checkpoint."""
        from ...trainer.tacotron2.job import Job
        from ...trainer.tacotron2.job import train as run

        loaded = settings_of(config or given(context).config, values or [], steps)
        in_ranks(loaded)
        root = given(context)
        kept = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smart-tuner" / "mels"
        job = Job(
            loaded,
            dataset.absolute(),
            (out or Path("runs") / name).absolute(),
            name,
            kept,
            resume,
            group,
            data_dir or root.data_dir,
            bus or root.bus,
            threads,
        )
        outcome = run(job, os.environ)
        row = {"run": name, "ended": outcome.ended, "step": outcome.step, "out": str(job.out)} | outcome.values
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(row) if as_json else "  ".join(f"{key} {_short(value)}" for key, value in row.items()))
        if outcome.signal:
            raise typer.Exit(SIGNALLED + outcome.signal)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def in_ranks(settings: Settings) -> None:
    """Starts this very command in every rank through torchrun, in place of this process, where the configuration wants more."""
    import torch

    from ...trainer.tacotron2.machine import joined, processes

    os.environ |= joined(settings.resources, os.environ)

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = processes(settings.resources, os.environ, gpus, lambda text: print(text, file=sys.stderr))
    if count > 1:
        runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        sys.stdout.flush()
        os.execv(sys.executable, [*runner, "-m", "smarttuner.daemon.cli.main", *sys.argv[1:]])


def settings_of(path: Path | None, values: list[str], steps: int | None) -> Settings:
    """The job's settings: the configuration, then --set, then --steps."""
    from ..config import load

    loaded = load(path, os.environ)
    for warning in loaded.warnings:
        print(f"smart-tuner: {warning}", file=sys.stderr)
    chosen = {}
    for one in values:
        name, equals, value = one.partition("=")
        if not equals:
            raise UsageError(f"--set {one} is not KEY=VALUE", "write --set learning_rate=1e-3")
        chosen[name.strip()] = value.strip()
    return job_settings(loaded.config, chosen | ({"steps": steps} if steps is not None else {}))


def job_settings(config: Config, chosen: dict[str, Any]) -> Settings:
    """What the configuration says to the job; the defaults of search_space are its parameters, `chosen` is over them."""
    from ...trainer.tacotron2.settings import Board, Resources, Saving, Settings, recipe_from

    gpu, ranks = config.resources.gpu, config.resources.distributed
    saved, memory = config.resources.checkpointing, config.resources.memory_optimization
    again, sound = config.experiment_tracking.reproducibility, config.audio_processing
    board = config.monitoring.platforms.tensorboard
    parameters = {name: one.default for name, one in config.search_space.items() if one.default is not None} | chosen
    return Settings(
        front=front_of(config, chosen),
        recipe=recipe_from({name: value for name, value in parameters.items() if name not in FRONT_KEYS}).complete(),
        resources=Resources(**gpu.model_dump(), **ranks.model_dump(), **memory.model_dump()),
        saving=Saving(saved.save_frequency, saved.keep_n_checkpoints, saved.async_save, saved.compression),
        board=Board() if board is None else Board(board.log_dir, board.write_graph, board.write_images),
        techniques=tuple(sound.augmentation.techniques) if sound.augmentation.enable else (),
        metrics=tuple(sound.quality_metrics),
        seed=again.seed,
        deterministic=again.deterministic,
        benchmark_mode=again.benchmark_mode,
        monitor=config.monitoring.metrics.primary,
    )


def front_of(config: Config, chosen: dict[str, Any] | None = None) -> Front:
    """The audio front end: audio_processing.preprocessing, and the mel bounds of search_space or `chosen`."""
    from ...trainer.tacotron2.settings import Front

    bounds = {name: config.search_space[name].default for name in FRONT_KEYS if name in config.search_space}
    bounds |= {name: value for name, value in (chosen or {}).items() if name in FRONT_KEYS}
    numbers: dict[str, Any] = {}
    for name, value in bounds.items():
        try:
            numbers[name] = float(value)  # type: ignore[arg-type]  # what is no number raises
        except (TypeError, ValueError):
            raise UsageError(f"{name}: {value!r} is not a number of Hz", f"write {name}: 8000") from None
    return Front(**config.audio_processing.preprocessing.model_dump(), **numbers)
