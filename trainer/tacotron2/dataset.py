"""Datasets in LJSpeech's form (`wavs/`, `metadata.csv` with `id|text|normalised text`): reading, mels, splits, batches."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from .augmentation import augmented
from .front_end import log_mel
from .model import Batch
from .settings import Front
from .text import tokens_of
from .wav import read_wav

MAGIC = b"mel1"
CHECK = "smart-tuner dataset check"


class Entry(NamedTuple):
    """A line of metadata.csv; `line` counts from 1."""

    name: str
    text: str
    line: int


def entries(folder: Path) -> list[Entry]:
    """The lines of metadata.csv; UsageError where there is none or a line has no text."""
    table = folder / "metadata.csv"
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        hint = f"an LJSpeech folder has metadata.csv and wavs/; make one: smart-tuner dataset synth {folder}"
        raise UsageError(f"{folder} is no dataset: it has no metadata.csv", hint) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{table}: is not UTF-8 at byte {error.start}", "convert it: iconv -f latin1 -t utf-8") from None
    found = []
    for number, line in enumerate(lines, 1):
        parts = line.split("|")
        if line.strip():
            found.append(Entry(parts[0].strip(), (parts[2] if len(parts) > 2 and parts[2].strip() else parts[-1]).strip(), number))
            if len(parts) < 2:
                raise UsageError(f"{table}:{number}: has no | between id and text", f"see {CHECK} {folder}")
    if len(found) < 2:
        raise UsageError(
            f"{table}: has {len(found)} utterances", "a training needs two at least: one to learn, one to be judged by"
        )
    return found


@dataclass(frozen=True)
class Utterance:
    """tokens (N), standardised mel (L, M), and where its sound lies."""

    name: str
    text: str
    tokens: Tensor
    mel: Tensor
    wav: Path


class MelCache:
    """Log mels of wav files, kept in `folder` by the content of the wav and the front end; None keeps nothing."""

    def __init__(self, front: Front, folder: Path | None) -> None:
        self.front, self.folder = front, folder
        self.made = 0

    def mel(self, path: Path) -> Tensor:
        """(L, M); UsageError for a wav that cannot be used."""
        if self.folder is None:
            return self._compute(path)
        try:
            key = hashlib.sha256(repr(self.front).encode() + path.read_bytes()).hexdigest()
        except FileNotFoundError:
            raise UsageError(f"{path}: is not there", f"see {CHECK} {path.parent.parent}") from None
        kept = self.folder / key[:2] / f"{key[2:]}.mel"
        return self._stored(kept) if kept.exists() else self._store(kept, self._compute(path))

    def _compute(self, path: Path) -> Tensor:
        samples, rate = read_wav(path)
        if rate != self.front.sample_rate:
            hint = f"convert it, or write sample_rate: {rate} under audio_processing.preprocessing"
            raise UsageError(f"{path}: has {rate} Hz, not {self.front.sample_rate}", hint)
        self.made += 1
        return log_mel(samples, self.front)

    def _store(self, kept: Path, mel: Tensor) -> Tensor:
        hidden = kept.with_suffix(f".{os.getpid()}")
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            hidden.write_bytes(MAGIC + struct.pack("<II", *mel.shape) + mel.contiguous().numpy().tobytes())
            hidden.replace(kept)
        except OSError:
            self.folder = None  # a cache that cannot be written is no reason to stop
        return mel

    def _stored(self, kept: Path) -> Tensor:
        raw = kept.read_bytes()
        frames, bands = struct.unpack("<II", raw[4:12]) if len(raw) > 12 else (0, 0)
        if raw[:4] != MAGIC or bands != self.front.n_mels or len(raw) != 12 + 4 * frames * bands:
            kept.unlink(missing_ok=True)
            raise UsageError(f"{kept}: a cached spectrogram was damaged and has been removed", "start again")
        return torch.frombuffer(bytearray(raw[12:]), dtype=torch.float32).view(frames, bands)


@dataclass(frozen=True)
class Splits:
    """What is learned from and what is judged by; mean and deviation (M) are the training split's."""

    train: list[Utterance]
    held_out: list[Utterance]
    mean: Tensor
    deviation: Tensor


def held_out_count(count: int) -> int:
    """A tenth, at most 48."""
    return max(1, min(48, count // 10))


def load(folder: Path, cache: MelCache, seed: int) -> Splits:
    """The whole dataset, its mels standardised; the split depends on `seed` and the utterances' names alone."""
    listed = entries(folder)
    order = sorted(listed, key=lambda one: hashlib.sha256(f"{seed}:{one.name}".encode()).digest())
    held = {one.name for one in order[: held_out_count(len(order))]}
    if len(held) == len({one.name for one in listed}):
        raise UsageError(f"{folder}/metadata.csv: every line has the same id", f"see {CHECK} {folder}")
    raw = []
    for one in listed:
        try:
            raw.append((one, tokens_of(one.text), cache.mel(folder / "wavs" / f"{one.name}.wav")))
        except UsageError as error:
            raise UsageError(f"{folder}/metadata.csv:{one.line}: {error.message}", f"see {CHECK} {folder}") from None
    mean, deviation = _spread([mel for one, _, mel in raw if one.name not in held])
    made = [
        (
            one.name in held,
            Utterance(one.name, one.text, tokens, mel.sub_(mean).div_(deviation), folder / "wavs" / f"{one.name}.wav"),
        )
        for one, tokens, mel in raw
    ]
    return Splits([one for out, one in made if not out], [one for out, one in made if out], mean, deviation)


def _spread(mels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation (M) of all frames, without a second copy of them."""
    count = sum(len(mel) for mel in mels)
    mean = torch.stack([mel.double().sum(0) for mel in mels]).sum(0) / count
    square = torch.stack([(mel.double() - mean).square().sum(0) for mel in mels]).sum(0) / max(count - 1, 1)
    return mean.float(), square.sqrt().float().clamp_min(0.05)


def batched(utterances: Sequence[Utterance], mels: Sequence[Tensor] | None = None) -> Batch:
    """Utterances beside each other, padded with zeros; `mels` in place of their own."""
    spoken = [one.mel for one in utterances] if mels is None else list(mels)
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(
        pad([one.tokens for one in utterances], batch_first=True),
        torch.tensor([len(one.tokens) for one in utterances]),
        pad(spoken, batch_first=True),
        torch.tensor([len(mel) for mel in spoken]),
    )


class Order:
    """Which utterances make which batch: shuffled by (seed, epoch), bucketed by length, so that any step can be found again."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.seed = lengths, seed
        self.batch_size = min(batch_size, len(lengths))
        self.batches = len(lengths) // self.batch_size
        self._epoch, self._plan = -1, torch.zeros(0)

    def batch(self, step: int) -> list[int]:
        """The utterances of a step, counted from 0."""
        epoch, at = divmod(step, self.batches)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._planned(epoch)
        return [int(one) for one in self._plan[at]]

    def _planned(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        shuffled = torch.randperm(len(self.lengths), generator=generator)[: self.batches * self.batch_size]
        lengths = torch.tensor(self.lengths)[shuffled]
        span = 8 * self.batch_size  # within it neighbours in length go together
        parts = [part[lengths[i * span : i * span + len(part)].argsort(stable=True)] for i, part in enumerate(shuffled.split(span))]
        rows = torch.cat(parts).view(self.batches, self.batch_size)
        return rows[torch.randperm(self.batches, generator=generator)]


class Feeder:
    """Batches of the train split for one rank, with augmented sound where the configuration asks for it."""

    def __init__(self, splits: Splits, front: Front, techniques: Sequence[str], order: Order, share: tuple[int, int]) -> None:
        self.splits, self.front, self.techniques, self.order = splits, front, techniques, order
        self.rank, self.world = share

    def batch(self, step: int) -> Batch:
        """This rank's share of the batch of `step` (from 0): every world-th utterance of it."""
        chosen = [self.splits.train[i] for i in self.order.batch(step)[self.rank :: self.world]]
        if not self.techniques:
            return batched(chosen)
        return batched(chosen, [self._varied(one, step) for one in chosen])

    def _varied(self, one: Utterance, step: int) -> Tensor:
        """A mel of the varied sound; drawn from (seed, step, name), so that a resumed training draws the same."""
        drawn = hashlib.sha256(f"{self.order.seed}:{step}:{one.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(drawn[:7], "big"))
        samples, rate = read_wav(one.wav)
        changed = augmented(samples, rate, self.techniques, generator)
        if changed is samples:
            return one.mel
        return (log_mel(changed, self.front) - self.splits.mean) / self.splits.deviation


def in_parts(utterances: Sequence[Utterance], size: int) -> Iterator[Sequence[Utterance]]:
    """`size` at a time, in order of length."""
    ordered = sorted(utterances, key=lambda one: len(one.mel))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
