"""What `smart-tuner demo` says at its end: the decisions, what they saved, what the good training can do now."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import SmartTunerError
from .demo_trainings import GROUP, SPEAKS, Plan

Row = dict[str, Any]
PROMISED = ("scale-lr", "prune", "checkpoint")
SHOWN = 4
"""Sentences that are named; the others lie beside them."""


@dataclass(frozen=True)
class Result:
    """How a training ended, after which step, where its files lie, and its last values."""

    ended: str
    step: int
    out: Path
    values: Mapping[str, float]


def report(folder: Path, speech: Path, plans: Sequence[Plan], results: Mapping[str, Result]) -> None:
    """Prints it; SmartTunerError where something that the demo shows did not happen."""
    from ...consumers.reading import decision_rows
    from .tables import print_table

    rows = decision_rows(folder)
    print()
    print_table(("run", "decision", "answer", "at step", "took ms", "what it changed", "why"), [_line(row) for row in rows])
    print()
    _print_saved(plans, results)
    _print_alerts(folder)
    _print_speech(speech, results[SPEAKS])
    print(f"\nThe curves with the decisions on them: {_drawn(folder)}")
    print("What happened, in pandas (paste it):\n")
    print(f'{sys.executable} -c "import pandas as pd; d = pd.read_parquet(\'{folder / "decisions"}\'); '
          "print(d[['run','action','status','applied_step','reason']].to_string())\"")  # fmt: skip
    missing = _missing(rows)
    if missing:
        raise SmartTunerError(f"no {' and no '.join(missing)} was applied", f"see {folder / 'daemon.log'} and the table above")


def _missing(rows: Iterable[Row]) -> list[str]:
    applied = [row for row in rows if row["status"] == "applied"]
    missing = sorted(set(PROMISED) - {row["action"] for row in applied})
    restored = any(isinstance(row["after"], dict) and "restored" in row["after"] for row in applied)
    return missing + ([] if restored else ["restore of best weights"])


def _line(row: Row) -> Sequence[str]:
    detail = {"scale-lr": "factor", "set-lr": "value", "restore": "to", "prune": "restore"}.get(row["action"])
    shown = row["params"].get(detail) if detail else None
    what = row["action"] + (f" ({detail} {shown})" if shown is not None else "")
    took = "" if row["latency_ms"] is None else f"{row['latency_ms']:.1f}"
    step = "" if row["applied_step"] is None else str(row["applied_step"])
    return (row["run"], what, row["status"], step, took, _changed(row), row["refused_by"] or row["reason"])


def _changed(row: Row) -> str:
    before, after = row["before"], row["after"]
    if isinstance(after, dict):
        return "; ".join(f"{name} step {value}" for name, value in after.items())
    if isinstance(before, float) and isinstance(after, float):
        return f"{before:.4g} -> {after:.4g}"
    return "" if after is None else Path(str(after)).name


def _print_saved(plans: Sequence[Plan], results: Mapping[str, Result]) -> None:
    for plan in plans:
        one = results[plan.name]
        saved = f": {100 * (1 - one.step / plan.steps):.0f} % of its compute saved" if one.ended == "pruned" else ""
        loss, aligned = one.values["val_loss"], one.values["alignment_score"]
        print(f"{plan.name} ({plan.about}): {one.ended} at step {one.step} of {plan.steps}{saved}; "
              f"val_loss {loss:.3g}, alignment_score {aligned:.2f}")  # fmt: skip
    spent, planned = sum(one.step for one in results.values()), sum(plan.steps for plan in plans)
    print(f"together {spent} of {planned} steps: {100 * (1 - spent / planned):.0f} % saved")


def _print_alerts(folder: Path) -> None:
    for line in (folder / "daemon.log").read_text(errors="replace").splitlines():
        if "ALERT" in line:
            print(line)


def _print_speech(speech: Path, good: Result) -> None:
    """What the good training says of sentences that it was not taught, and how well, in the words of the measures."""
    texts = dict(line.split("|")[:2] for line in (speech / "metadata.csv").read_text().splitlines())
    folder = good.out / "samples" / f"step-{good.step}"
    values = good.values
    print(f"\n{SPEAKS} has learnt for {values['training_cpu_s']:.0f} CPU-s and says sentences that it was not taught:")
    spoken = sorted(folder.glob("*.wav"))
    for wav in spoken[:SHOWN]:
        print(f'  {wav}  "{texts[wav.stem]}"')
    print(f"  {folder / 'alignment.png'}  how its attention walks a text")
    aligned, sound = values["alignment_score"], values.get("audio_quality_score")
    print(f"alignment_score {aligned:.2f} of 1: it {_reads(aligned)}.")
    if sound is not None:
        print(f"audio_quality_score {sound:.2f} of 5, {len(spoken)} sentences beside their recordings: {_sounds(sound)}.")


def _reads(score: float) -> str:
    return "walks the texts in order and completely" if score >= 0.85 else "does not walk the texts in order yet"


def _sounds(score: float) -> str:
    return "good speech" if score >= 3.5 else "a mumble; what longer trainings reach stands in docs/benchmarks-tacotron2.md"


def _drawn(folder: Path) -> Path:
    """One offline page."""
    from ...consumers.figures.stored import figure_of, find_subject
    from .plot import replace, written

    path = folder / "curves.html"
    replace(path, written(folder, figure_of(folder, find_subject(folder, GROUP, "current"), ()), "html"))
    return path
