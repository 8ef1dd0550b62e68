"""From sound to log mel spectrogram and back (Griffin and Lim 1984, with the momentum of Perraudin et al. 2013)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import Front

FLOOR = 1e-5
ITERATIONS = 60
MOMENTUM = 0.99


def log_mel(samples: Tensor, front: Front) -> Tensor:
    """(L) samples to (frames, n_mels): log of magnitudes in Slaney mel bands, frames = 1 + L // hop_length."""
    magnitudes = _spectrum(samples, front).abs()
    return (magnitudes.t() @ mel_basis(front).t()).clamp_min(FLOOR).log()


def sound(mel: Tensor, front: Front, iterations: int = ITERATIONS) -> Tensor:
    """(frames, n_mels) log mels to samples by Griffin-Lim; seeded, so the same mels give the same sound."""
    magnitudes = _linear(mel.exp().t(), front)
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(magnitudes.shape, generator=generator) * 2 * math.pi
    estimate, before = torch.polar(torch.ones_like(angles), angles), torch.zeros(())
    length = (mel.shape[0] - 1) * front.hop_length
    samples = torch.zeros(length)
    for _ in range(iterations if length else 0):
        samples = _inverse(magnitudes * estimate, front, length)
        rebuilt = _spectrum(samples, front)
        estimate = rebuilt - before * (MOMENTUM / (1 + MOMENTUM))
        estimate = estimate / estimate.abs().clamp_min(1e-8)
        before = rebuilt
    return samples


def _linear(mel: Tensor, front: Front) -> Tensor:
    """(n_mels, frames) magnitudes in mel bands to (bins, frames): least squares without negative values, by
    multiplicative updates from the pseudo-inverse."""
    basis = mel_basis(front)
    found = (_inverse_basis(front) @ mel).clamp_min(FLOOR)
    wanted = basis.t() @ mel
    square = basis.t() @ basis
    for _ in range(30):
        found = found * wanted / (square @ found).clamp_min(1e-10)
    return found


@lru_cache(maxsize=8)
def mel_basis(front: Front) -> Tensor:
    """(n_mels, n_fft // 2 + 1): triangles of equal area, evenly spaced on Slaney's scale."""
    bins = torch.linspace(0, front.sample_rate / 2, front.n_fft // 2 + 1, dtype=torch.float64)
    ends = torch.linspace(_mel(front.mel_fmin), _mel(front.mel_fmax), front.n_mels + 2, dtype=torch.float64)
    corners = torch.tensor([_hertz(one) for one in ends.tolist()], dtype=torch.float64)
    rise = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    fall = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    triangles = torch.minimum(rise, fall).clamp_min(0)
    return (triangles * (2 / (corners[2:] - corners[:-2]))[:, None]).float()


@lru_cache(maxsize=8)
def _inverse_basis(front: Front) -> Tensor:
    return torch.linalg.pinv(mel_basis(front).double()).float()


def _mel(hertz: float) -> float:
    """Slaney's scale: linear to 1000 Hz (15 mels), then 27 steps to each factor of 6.4."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


@lru_cache(maxsize=8)
def _window(length: int) -> Tensor:
    return torch.hann_window(length)


def _spectrum(samples: Tensor, front: Front) -> Tensor:
    """(bins, frames), with the sound mirrored at its ends."""
    reach = front.n_fft // 2
    mode = "reflect" if len(samples) > reach else "constant"
    padded = F.pad(samples.view(1, 1, -1), (reach, reach), mode=mode).view(-1)
    return torch.stft(
        padded, front.n_fft, front.hop_length, front.win_length, _window(front.win_length), center=False, return_complex=True
    )


def _inverse(spectrum: Tensor, front: Front, length: int) -> Tensor:
    return torch.istft(spectrum, front.n_fft, front.hop_length, front.win_length, _window(front.win_length), length=length)
