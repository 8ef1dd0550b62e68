"""What a training is judged by: the held-out utterances, teacher-forced and spoken freely."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import Unavailable
from .alignment import alignment_score, text_use
from .dataset import Splits, Utterance, batched, in_parts
from .front_end import sound
from .losses import Counts, counts_of, losses
from .machine import Machine, Told
from .model import Batch, Spoken, Tacotron2
from .quality import audio_quality_score, quality_metrics, report
from .settings import Settings
from .wav import read_wav

LONGEST_FACTOR = 1.5
SAMPLES = 16  # scores deviate by 0.3 to 0.5: the mean of four would be good to 0.2 only


class Judgement(NamedTuple):
    """The held-out split under teacher forcing, over all ranks; `attention` (T, N) and `mels` (L, M) are one utterance's."""

    values: dict[str, float]
    attention: Tensor
    mels: tuple[Tensor, Tensor]


@torch.no_grad()  # type: ignore[untyped-decorator]  # mypy sees no torch
def evaluate(model: Tacotron2, splits: Splits, settings: Settings, machine: Machine) -> Judgement:
    """val_loss, mel_loss, gate_loss, alignment_score and text_use. Draws no random number of the training."""
    model.eval()
    recipe, one = settings.recipe, Counts(1.0, 1.0)
    sums = [0.0] * 7
    shown: tuple[Tensor, tuple[Tensor, Tensor]] = (torch.zeros(1, 1), (torch.zeros(1, 1), torch.zeros(1, 1)))
    mine = sorted(splits.held_out, key=lambda utterance: len(utterance.mel))[machine.rank :: machine.world]
    for part in in_parts(mine, max(1, min(recipe.batch_size, len(mine)))):
        batch = batched(part).to(machine.device)
        with machine.casting():
            output = model(batch)
            stranger = model(batch._replace(tokens=batch.tokens.roll(1, 0), token_counts=batch.token_counts.roll(1, 0)))
        found, other = losses(output, batch, recipe, one), losses(stranger, batch, recipe, one)
        counts = counts_of(batch, recipe.reduction_factor)
        maps = [cut(output.attention[i], batch, i, recipe.reduction_factor) for i in range(len(part))]
        scores = [alignment_score(one_map) for one_map in maps]
        added = [float(found.mel), float(found.gate), counts.values, counts.steps, sum(scores), len(part), float(other.mel)]
        sums = [a + b for a, b in zip(sums, added, strict=True)]
        length = int(batch.frame_counts[-1])
        shown = maps[-1], (batch.mels[-1, :length].cpu(), output.after[-1, :length].cpu())
    model.train()
    mel, gate, values, steps, aligned, count, shuffled = machine.summed(sums)
    mel_loss, gate_loss = mel / values, gate / steps
    told = {
        "val_loss": mel_loss + gate_loss,
        "mel_loss": mel_loss,
        "gate_loss": gate_loss,
        "alignment_score": aligned / count,
        "text_use": text_use(mel_loss, shuffled / values),
    }
    return Judgement(told, *shown)


def cut(attention: Tensor, batch: Batch, which: int, r: int) -> Tensor:
    """(T, N) of one utterance without padding."""
    steps, tokens = -(-int(batch.frame_counts[which]) // r), int(batch.token_counts[which])
    return attention[:steps, :tokens].float().cpu()


def speak(model: Tacotron2, tokens: Sequence[Tensor], max_frames: int) -> tuple[list[Tensor], Spoken]:
    """Log mels (L, M) of texts, spoken freely, and how."""
    was = model.training
    model.eval()
    device = model.mel_mean.device
    padded = torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True).to(device)
    spoken = model.speak(padded, torch.tensor([len(one) for one in tokens]), max_frames)
    model.train(was)
    mels = (spoken.mels * model.mel_deviation + model.mel_mean).cpu()
    return [mel[:count] for mel, count in zip(mels, spoken.frame_counts.tolist(), strict=True)], spoken


class Sample(NamedTuple):
    """One held-out utterance as the model says it."""

    utterance: Utterance
    samples: Tensor
    stopped: bool
    values: dict[str, float]


def listen(model: Tacotron2, utterances: Sequence[Utterance], settings: Settings, told: Told) -> list[Sample]:
    """Speaks utterances and compares them with their recordings: audio_quality_score and the configured measures."""
    longest = round(LONGEST_FACTOR * max(len(one.mel) for one in utterances))
    mels, spoken = speak(model, [one.tokens for one in utterances], longest)
    found = []
    for one, mel, stopped in zip(utterances, mels, spoken.stopped.tolist(), strict=True):
        samples = sound(mel, settings.front)
        reference, rate = read_wav(one.wav)
        values = quality_metrics(reference, samples, settings.front, settings.metrics)
        try:
            score = audio_quality_score(reference, samples, rate)
            values |= {"audio_quality_score": score} if math.isfinite(score) else {}
        except Unavailable as error:
            told(str(error))
        found.append(Sample(one, samples, bool(stopped), values))
    return found


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Means over samples, how far apart the audio_quality_scores lie, and the share that stopped by itself."""
    told = report([one.values for one in samples]) | {"stopped": sum(one.stopped for one in samples) / len(samples)}
    scores = [one.values["audio_quality_score"] for one in samples if "audio_quality_score" in one.values]
    return told | ({"audio_quality_deviation": statistics.stdev(scores)} if len(scores) > 1 else {})


def write_samples(samples: Sequence[Sample], folder: Path, settings: Settings) -> None:
    """The sounds as wavs named after their utterances."""
    from .wav import write_wav

    folder.mkdir(parents=True, exist_ok=True)
    for one in samples:
        write_wav(folder / f"{one.utterance.name}.wav", one.samples, settings.front.sample_rate)
