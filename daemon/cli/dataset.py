"""`smart-tuner dataset synth|check`: a speech dataset to train on, made offline, or looked through."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import SmartTunerError
from .options import ConfigFile, Json, given

dataset = typer.Typer(
    name="dataset", help="Speech datasets in LJSpeech's form: make one offline, or look through yours.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Adds `dataset synth` and `dataset check`."""
    app.add_typer(dataset, name="dataset")


@dataset.command(epilog="Example: smart-tuner dataset synth ./speech --count 1000")
def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
    count: Annotated[int, typer.Option(min=2, metavar="N", help="Utterances.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides which sentences, and their order.")] = 1,
) -> None:
    """Speaks a dataset with espeak-ng: wavs/ and metadata.csv. The same again is left as it is."""
    from ...trainer.tacotron2.speech import synthesise

    folder = folder.absolute()
    made = synthesise(folder, count, seed)
    print(f"{folder}: {count} utterances" + ("" if made else " (were there already)"))


@dataset.command(epilog="Example: smart-tuner dataset check ./LJSpeech-1.1")
def check(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with metadata.csv and wavs/.")],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Says line by line what is wrong with a dataset and what to do; ends with 1 where a training would refuse it."""
    from ...trainer.tacotron2.dataset_check import check as look
    from ..config import load
    from .train import front_of

    report = look(folder, front_of(load(config or given(context).config, os.environ).config))
    for one in report.findings:
        if as_json:
            print(json.dumps(one._asdict()))
        else:
            print(f"{one.place}: {one.level}: {one.what}\n    hint: {one.hint}")
    errors = sum(one.level == "error" for one in report.findings)
    warnings = len(report.findings) - errors
    print(f"{report.utterances} utterances, {report.seconds:.0f} s: {errors} errors, {warnings} warnings", file=sys.stderr)
    if errors:
        raise SmartTunerError(f"{folder}: {errors} errors stand in the way of a training", "each is named above, with what to do")
