"""How good synthesised speech is beside the recorded utterance: audio_quality_score (1..5) and the three measures of the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ...core.errors import Unavailable
from .front_end import log_mel, sound
from .settings import Front
from .wav import resampled

SPEECH_RATE_HZ = 16000
STOI_RATE_HZ = 10000
SHORTEST_S = 0.5
COEFFICIENTS = 13
INSTALL = 'install it: pip install "smart-tuner[tacotron2]"'


def audio_quality_score(reference: Tensor, spoken: Tensor, rate: int) -> float:
    """ViSQOL's speech mode over samples (L) and (L'): 1 bad to 5 the same, NaN where the recording has no speech. Unavailable
    without its libraries: without the runtime of its lattice it would fall back to higher scores."""
    try:
        api = _speech_model()
    except ImportError as error:
        raise Unavailable(f"audio_quality_score needs {error.name or 'ai-edge-litert'}, which is not installed", INSTALL) from None
    pair = [resampled(_lasting(one, rate), rate, SPEECH_RATE_HZ).double().numpy() for one in (reference, spoken)]
    try:
        return float(api.measure_from_arrays(pair[0], pair[1], SPEECH_RATE_HZ).moslqo)
    except (ValueError, IndexError):  # not one patch of speech in the reference
        return math.nan


@lru_cache(maxsize=1)
def _speech_model() -> Any:
    api = import_module("visqol").VisqolApi()
    api.create(mode="speech", use_lattice_model=True)
    return api


def quality_metrics(reference: Tensor, spoken: Tensor, front: Front, wanted: Sequence[str]) -> dict[str, float]:
    """The named measures; a pair too short for one (PESQ 0.25 s, STOI 0.4 s) has none of it."""
    measures = {
        "mel_spectral_distance": lambda: mel_spectral_distance(log_mel(reference, front), log_mel(spoken, front)),
        "perceptual_evaluation_speech_quality": lambda: pesq_score(reference, spoken, front.sample_rate),
        "short_time_objective_intelligibility": lambda: stoi_score(reference, spoken, front),
    }
    found = {name: measures[name]() for name in wanted}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def mel_spectral_distance(reference: Tensor, spoken: Tensor) -> float:
    """Root mean square distance of log mels (L, M) and (L', M) in dB along the best time alignment."""
    path = aligned(reference, spoken)
    error = reference[path[:, 0]] - spoken[path[:, 1]]
    return float(error.square().mean().sqrt() * (20 / math.log(10)))


def pesq_score(reference: Tensor, spoken: Tensor, rate: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2) at 16 kHz; NaN where it cannot be measured."""
    try:
        pesq = import_module("pesq")
    except ModuleNotFoundError:
        raise Unavailable("perceptual_evaluation_speech_quality needs pesq, which is not installed", INSTALL) from None
    if min(len(reference), len(spoken)) < 0.25 * rate:
        return math.nan
    pair = [resampled(one, rate, SPEECH_RATE_HZ).numpy() for one in (reference, spoken)]
    try:
        return float(pesq.pesq(SPEECH_RATE_HZ, pair[0], pair[1], "wb"))  # raises where there is no speech; its -7 is no score
    except (pesq.PesqError, ValueError):
        return math.nan


def stoi_score(reference: Tensor, spoken: Tensor, front: Front) -> float:
    """STOI (Taal et al. 2011), 0..1, after time alignment, which it cannot do without; NaN under 0.4 s."""
    try:
        stoi = import_module("pystoi").stoi
    except ModuleNotFoundError:
        raise Unavailable("short_time_objective_intelligibility needs pystoi, which is not installed", INSTALL) from None
    rate = front.sample_rate
    if min(len(reference), len(spoken)) < 0.5 * rate:
        return math.nan
    warped = time_aligned(reference, spoken, front)
    pair = [resampled(one, rate, STOI_RATE_HZ).numpy() for one in (reference[: len(warped)], warped)]
    return float(stoi(pair[0], pair[1], STOI_RATE_HZ))


def time_aligned(reference: Tensor, spoken: Tensor, front: Front) -> Tensor:
    """`spoken` at the reference's pace: its mels along the alignment, made sound again."""
    of_reference, of_spoken = log_mel(reference, front), log_mel(spoken, front)
    path = aligned(of_reference, of_spoken)
    partner = torch.zeros(len(of_reference), dtype=torch.long)
    partner[path[:, 0]] = path[:, 1]
    return sound(of_spoken[partner], front, iterations=30)[: len(reference)]


def aligned(one: Tensor, other: Tensor) -> Tensor:
    """Dynamic time warping of (L, M) and (L', M) by the distance of their cepstra: pairs of frames (P, 2)."""
    distance = torch.cdist(_cepstra(one), _cepstra(other))
    rows, columns = distance.shape
    cost = torch.full((rows + 1, columns + 1), float("inf"), dtype=torch.float64)
    cost[0, 0] = 0.0
    flat, width = distance.double(), columns + 1
    for diagonal in range(2, rows + columns + 1):  # all cells of an anti-diagonal depend on the two before it only
        row = torch.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        column = diagonal - row
        best = torch.minimum(torch.minimum(cost[row - 1, column], cost[row, column - 1]), cost[row - 1, column - 1])
        cost[row, column] = flat[row - 1, column - 1] + best
    steps, at = cost.flatten().tolist(), (rows, columns)
    path = []
    while at > (0, 0) and at[0] and at[1]:
        path.append((at[0] - 1, at[1] - 1))
        before = [(at[0] - 1, at[1] - 1), (at[0] - 1, at[1]), (at[0], at[1] - 1)]
        at = min(before, key=lambda cell: steps[cell[0] * width + cell[1]])
    return torch.tensor(path[::-1])


def _cepstra(mel: Tensor) -> Tensor:
    """Orthonormal DCT-II of log mels, without the loudness."""
    bands = mel.shape[1]
    places = torch.arange(bands) + 0.5
    rows = torch.arange(1, min(COEFFICIENTS, bands - 1) + 1).unsqueeze(1)
    return mel @ (torch.cos(math.pi / bands * places * rows) * math.sqrt(2 / bands)).t()


def _lasting(samples: Tensor, rate: int) -> Tensor:
    """At least half a second, filled with silence: shorter sounds have no patch to compare."""
    return torch.nn.functional.pad(samples, (0, max(0, round(SHORTEST_S * rate) - len(samples))))


def report(values: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean of each measure over utterances."""
    names = {name for one in values for name in one}
    return {name: sum(one[name] for one in values if name in one) / sum(name in one for one in values) for name in sorted(names)}
