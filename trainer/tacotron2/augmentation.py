"""Variations of the sound of the train split. Each keeps the loudness; mels and stop targets are made anew afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .wav import resampled

WINDOW, HOP = 1024, 256
STRETCH = (0.9, 1.1)
SEMITONES = 2.0
NOISE_DB = (20.0, 40.0)
SPEEDS = (0.9, 0.95, 1.05, 1.1)


def augmented(samples: Tensor, rate: int, techniques: Sequence[str], generator: Generator) -> Tensor:
    """One of `techniques`, or half of the time none, drawn from `generator` (samples (L) to samples (L'))."""
    chance, which, how = torch.rand(3, generator=generator).tolist()
    if not techniques or chance < 0.5 or len(samples) < 2 * WINDOW:
        return samples
    match techniques[min(int(which * len(techniques)), len(techniques) - 1)]:
        case "time_stretch":
            changed = stretched(samples, STRETCH[0] + how * (STRETCH[1] - STRETCH[0]))
        case "pitch_shift":
            changed = shifted(samples, rate, (2 * how - 1) * SEMITONES)
        case "speed_perturbation":
            changed = sped(samples, SPEEDS[min(int(how * len(SPEEDS)), len(SPEEDS) - 1)])
        case _:
            return noisy(samples, NOISE_DB[0] + how * (NOISE_DB[1] - NOISE_DB[0]), generator)
    return _as_loud_as(samples, changed)


def stretched(samples: Tensor, speed: float) -> Tensor:
    """The same pitch, `speed` times as fast: a phase vocoder."""
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(samples, WINDOW, HOP, window=window, return_complex=True)
    at = torch.arange(0, spectrum.shape[1] - 1, speed)
    left, share = at.long(), at - at.floor()
    before, after = spectrum[:, left], spectrum[:, (left + 1).clamp_max(spectrum.shape[1] - 1)]
    magnitude = before.abs() * (1 - share) + after.abs() * share
    expected = torch.linspace(0, math.pi * HOP, WINDOW // 2 + 1).unsqueeze(1)
    turned = after.angle() - before.angle() - expected
    turned = turned - 2 * math.pi * torch.round(turned / (2 * math.pi)) + expected
    phase = torch.cat((before[:, :1].angle(), before[:, :1].angle() + turned[:, :-1].cumsum(1)), 1)
    return torch.istft(torch.polar(magnitude, phase), WINDOW, HOP, window=window, length=round(len(samples) / speed))


def shifted(samples: Tensor, rate: int, semitones: float) -> Tensor:
    """Another pitch at the same length."""
    factor = 2 ** (semitones / 12)
    made = resampled(stretched(samples, 1 / factor), round(100 * factor), 100)
    return torch.nn.functional.pad(made, (0, max(0, len(samples) - len(made))))[: len(samples)]


def sped(samples: Tensor, speed: float) -> Tensor:
    """Faster and higher, or slower and lower, as a tape."""
    return resampled(samples, round(100 * speed), 100)


def noisy(samples: Tensor, ratio_db: float, generator: Generator) -> Tensor:
    """White noise `ratio_db` below the signal."""
    noise = torch.randn(samples.shape, generator=generator)
    return samples + noise * samples.square().mean().sqrt() * 10 ** (-ratio_db / 20)


def _as_loud_as(samples: Tensor, changed: Tensor) -> Tensor:
    level = samples.square().mean().sqrt() / changed.square().mean().sqrt().clamp_min(1e-8)
    changed = changed * level
    return changed / changed.abs().max().clamp_min(1.0)
