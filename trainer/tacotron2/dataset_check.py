"""`dataset check`: what is wrong with a user's dataset, line by line, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...core.errors import UsageError
from .settings import Front
from .text import cleaned, unknown_characters
from .wav import read_wav

SHORTEST_S, LONGEST_S = 0.3, 15.0
SILENT = 0.003
CLIPPED_SHARE = 0.001


class Finding(NamedTuple):
    """What is wrong at `place` (file:line), and what to do. `level` is error (a training refuses it) or warning."""

    level: str
    place: str
    what: str
    hint: str


class Report(NamedTuple):
    """Everything found in a dataset of so many lines that hold `seconds` of sound."""

    findings: list[Finding]
    utterances: int
    seconds: float


def check(folder: Path, front: Front) -> Report:
    """Looks at every line and every wav; UsageError where there is no metadata.csv to look at."""
    table = folder / "metadata.csv"
    try:
        lines = table.read_bytes().decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is no dataset: it has no metadata.csv", f"smart-tuner dataset synth {folder} makes one"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{table}: is not UTF-8 at byte {error.start}", "convert it: iconv -f latin1 -t utf-8") from None
    findings: list[Finding] = []
    seen: dict[str, int] = {}
    count, seconds = 0, 0.0
    for number, line in enumerate(lines, 1):
        place = f"{table}:{number}"
        if not line.strip():
            continue
        count += 1
        parts = line.split("|")
        name = parts[0].strip()
        if name in seen:
            findings.append(
                Finding("error", place, f"the id {name} stands in line {seen[name]} too", "give one of them another id")
            )
        seen.setdefault(name, number)
        findings += (Finding(level, place, what, hint) for level, what, hint in _text(parts))
        found, length = _sound(folder / "wavs" / f"{name}.wav", front)
        findings += (Finding(level, place, what, hint) for level, what, hint in found)
        seconds += length
    if count < 2:
        findings.append(Finding("error", str(table), f"has {count} utterances", "a training needs two at least"))
    return Report(findings, count, seconds)


def _text(parts: list[str]) -> Iterator[tuple[str, str, str]]:
    if len(parts) < 2:
        yield "error", "has no | between id and text", "write id|text|normalised text"
        return
    text = parts[2] if len(parts) > 2 and parts[2].strip() else parts[1]
    if not cleaned(text):
        yield "error", "has no text", "write what is spoken, or remove the line"
    elif strange := unknown_characters(text):
        yield (
            "error",
            f"has characters that the model does not know: {' '.join(strange)}",
            "write numbers and signs as words in the third column",
        )


def _sound(path: Path, front: Front) -> tuple[list[tuple[str, str, str]], float]:
    """What is wrong with a wav, and how long it is in seconds."""
    try:
        samples, rate = read_wav(path)
    except UsageError as error:
        return [("error", error.message, error.hint)], 0.0
    found, length = [], len(samples) / rate
    if rate != front.sample_rate:
        hint = f"convert it: ffmpeg -i {path.name} -ar {front.sample_rate} fixed.wav; or set sample_rate: {rate}"
        found.append(("error", f"{path.name} has {rate} Hz, not {front.sample_rate}", hint))
    if length < SHORTEST_S:
        found.append(
            ("error", f"{path.name} lasts {length:.2f} s, under {SHORTEST_S} s", "remove the line, or join it with another")
        )
    elif length > LONGEST_S:
        found.append(
            ("warning", f"{path.name} lasts {length:.1f} s, over {LONGEST_S:g} s", "cut it: memory grows with the longest")
        )
    if len(samples):
        peak = float(samples.abs().max())
        clipped = float((samples.abs() >= 0.999).float().mean())
        if peak < SILENT:
            found.append(("error", f"{path.name} is silent", "record it again, or remove the line"))
        elif clipped > CLIPPED_SHARE:
            found.append(
                ("warning", f"{path.name} is clipped ({100 * clipped:.1f} % of its samples)", "record it again, more quietly")
            )
    return found, length
