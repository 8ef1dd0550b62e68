"""`smart-tuner decisions --would --summary`: would acting have been right, and the line that turns it on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from ...core.errors import SmartTunerError
from .options import aliases, given


def print_summary(context: typer.Context, folder: Path | str, rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """A paragraph a policy; as JSON an object a policy."""
    from ...consumers.track_record import track_record

    lines = track_record(folder, rows, aliases(context))
    _turn_on(context, folder, rows, lines)
    for line in lines:
        print(json.dumps(line, allow_nan=False) if as_json else "\n".join(sentences(line)))


def _turn_on(context: typer.Context, folder: Path | str, rows: Sequence[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Adds `turn_on` to each line: YAML and where it goes, as in the configuration that a daemon here would find; None where
    that cannot be read, an empty list where it lets the policy act already."""
    from ...consumers.reading import run_rows

    try:
        from ..config import load
        from ..turning_on import lines as of

        config = load(given(context).config, os.environ).config
    except (ImportError, SmartTunerError):
        for line in lines:
            line["turn_on"] = None
        return
    runs = {row["attempt"]: row for row in run_rows(folder)}
    for line in lines:
        decided = {row["attempt"] for row in rows if row["policy"] == line["policy"] and row["action"] == line["action"]}
        found = of(config, line["policy"], [runs[one] for one in sorted(decided) if one in runs])
        line["turn_on"] = [one._asdict() for one in found]


def sentences(line: dict[str, Any]) -> list[str]:
    """One policy, for people."""
    what = {"prune": "would have ended", "scale-lr": "would have changed the learning rate of"}
    does = what.get(line["action"], f"would have asked for {line['action']} of")
    said = [f"{line['policy']} {does} {_runs(line['runs'])} ({line['decisions']} decisions)"]
    gone = f"; of {line['unknown']} the points are not stored any more" if line["unknown"] else ""
    if "right" not in line:
        return [*said, *_how(line)]
    if not line["ended"]:
        return [*said, f"  none of them has ended yet{gone}", *_how(line)]
    low, high = line["right_interval"]
    means = "the best had come before, or at most 1 % of it was lost"
    if line["action"] == "scale-lr":
        means = "nothing better came within the next 10 points without it"
    said.append(f"  right in {line['right']} of {line['ended']} ended (95 %: {100 * low:.0f} to {100 * high:.0f} %): {means}{gone}")
    if line["action"] == "prune":
        said += [
            f"  saves {line['steps_saved']} steps ({100 * line['share_saved']:.0f} % of these runs' steps), "
            f"{line['hours_saved']:.3g} hours",
            f"  costs: a best worse by more than 1 % in {_runs(line['runs_worse'])} and {line['groups_worse']} of {line['groups']} "
            f"groups; loss of a run's best: median {_percent(line['loss_median'])}, worst {_percent(line['loss_worst'])}",
        ]
    if line["caution"]:
        said.append(f"  caution: {line['caution']}")
    return [*said, *_how(line)]


def _how(line: dict[str, Any]) -> list[str]:
    if line["turn_on"] is None:
        return ["  the configuration cannot be read here: smart-tuner config validate"]
    if not line["turn_on"]:
        why = "a pause kept it (smart-tuner resume ends it), or the job's own mode=observe, or the configuration of then"
        return [f"  this configuration lets it act, or does not have it: {why}"]
    return [f"  to let it act, write {_under(one['where'])}{one['text']}" for one in line["turn_on"]]


def _under(where: str) -> str:
    return f"under {where} " if where else ""


def _percent(share: float | str) -> str:
    return "all of it" if share == "Infinity" else f"{100 * float(share):.3g} %"


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"
