"""`smart-tuner synthesize`: speech from a checkpoint of `train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds `synthesize`."""

    @app.command(epilog='Example: smart-tuner synthesize runs/first "the baker sells honey" out.wav')
    def synthesize(
        checkpoint: Annotated[
            Path, typer.Argument(metavar="CHECKPOINT", help="A training's folder (its best checkpoint), or one of its step-N.")
        ],
        text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
        out: Annotated[Path, typer.Argument(metavar="WAV", help="The file to write.")],
    ) -> None:
        """Speaks a text into a wav file."""
        from ...trainer.tacotron2.job import speaker
        from ...trainer.tacotron2.wav import write_wav

        voice = speaker(checkpoint, lambda said: print(f"smart-tuner: {said}", file=sys.stderr))
        samples, stopped = voice.say(text)
        write_wav(out, samples, voice.front.sample_rate)
        print(f"{out}: {len(samples) / voice.front.sample_rate:.2f} s, from step {voice.step}")
        if not stopped:
            print("smart-tuner: it did not find its end: train longer, or take a later checkpoint", file=sys.stderr)
