"""Sound files and sample rates: PCM wav in and out with the standard library, resampling by windowed sinc."""

from __future__ import annotations

import math
import os
import wave
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import UsageError

ZERO_CROSSINGS = 24
ROLL_OFF = 0.97


def read_wav(path: Path) -> tuple[Tensor, int]:
    """Samples (L) in -1..1, channels averaged, and the sample rate; UsageError where it is no PCM wav."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, count = file.getparams()[:4]
            raw = file.readframes(count)
    except FileNotFoundError:
        raise UsageError(f"{path}: is not there", "put the wav there, or take its line out of metadata.csv") from None
    except (wave.Error, EOFError) as error:
        raise UsageError(f"{path}: is no PCM wav: {error}", f"convert it: ffmpeg -i {path.name} -c:a pcm_s16le fixed.wav") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "look at who may read it") from None
    samples = _samples(raw[: len(raw) // (width * channels) * width * channels], width)
    return samples.view(-1, channels).mean(1) if channels > 1 else samples, rate


def _samples(raw: bytes, width: int) -> Tensor:
    if not raw:
        return torch.zeros(0)
    if width == 2:
        return torch.frombuffer(bytearray(raw), dtype=torch.int16).float() / 32768
    if width == 4:
        return torch.frombuffer(bytearray(raw), dtype=torch.int32).float() / 2**31
    parts = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    if width == 1:
        return (parts.float() - 128) / 128
    low, middle, high = parts.view(-1, 3).int().unbind(1)
    whole = low + (middle << 8) + (high << 16)
    return torch.where(whole >= 2**23, whole - 2**24, whole).float() / 2**23


def write_wav(path: Path, samples: Tensor, rate: int) -> None:
    """16-bit mono, whole or not at all; samples (L) outside -1..1 are clipped."""
    pcm = (samples.clamp(-1, 1) * 32767).round().to(torch.int16)
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with wave.open(str(hidden), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(pcm.numpy().tobytes())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)


def resampled(samples: Tensor, rate: int, wanted: int) -> Tensor:
    """Samples (L) at another rate (ceil(L · wanted / rate)), without what the lower rate cannot hold."""
    if rate == wanted or not len(samples):
        return samples
    shared = math.gcd(rate, wanted)
    old, new = rate // shared, wanted // shared
    bank, reach = _bank(old, new)
    length = -(-len(samples) * new // old)
    padded = F.pad(samples.view(1, 1, -1), (reach, reach + old))
    made = F.conv1d(padded, bank, stride=old)[0]
    return made.t().flatten()[:length].contiguous()


@lru_cache(maxsize=16)
def _bank(old: int, new: int) -> tuple[Tensor, int]:
    """A kernel (new, 1, width) for each position between two old samples, and how far it reaches to the left."""
    cut = min(old, new) * ROLL_OFF
    reach = math.ceil(ZERO_CROSSINGS * old / cut)
    places = torch.arange(-reach, reach + old, dtype=torch.float64).unsqueeze(0) / old
    at = (places - torch.arange(new, dtype=torch.float64).unsqueeze(1) / new) * cut
    window = torch.cos(at.clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS) * math.pi / ZERO_CROSSINGS / 2).square()
    return (torch.sinc(at) * window * cut / old).float().unsqueeze(1), reach
