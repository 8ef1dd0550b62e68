"""`smart-tuner decisions`: what was decided, why, and what the job answered."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import UsageError
from .options import DataDir, Json, aliases, store
from .stored import known_run

if TYPE_CHECKING:
    from ...consumers.aliases import Aliases

HEAD = ("time", "run", "action", "status", "step", "policy", "reason", "hindsight", "id")
LOOK_S = 0.5
RIGHT = 0.01
"""A share of the best that may be lost for a prune to have been right; score.LOST, which this file does not load for --help."""


def register(app: typer.Typer) -> None:
    """Adds `decisions`."""

    @app.command(epilog="Example: smart-tuner decisions my-run --json | jq .reason")
    def decisions(
        context: typer.Context,
        run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only this run.", show_default=False)] = None,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
        would: Annotated[bool, typer.Option("--would", help="Only what would have been done.")] = False,
        summary: Annotated[
            bool, typer.Option("--summary", help="With --would: what acting would have saved and cost, and what turns it on.")
        ] = False,
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """Every decision with its reason, evidence and the job's answer. Reads the files; needs no daemon.

        What was only concluded (`would`) says in hindsight whether it was right, once its run has ended."""
        if summary and (follow or not would):
            raise UsageError("--summary is of what would have been done", "write decisions --would --summary, without --follow")
        folder = store(context, data_dir)
        if run is not None and not follow:
            known_run(folder, run)
        rows = gather(folder, run, would)
        if follow:
            go_on(folder, run, would, as_json)
        elif rows and summary:
            from .would_summary import print_summary

            print_summary(context, folder, rows, as_json)
        elif rows:
            show(folder, rows, as_json, aliases(context))
        else:
            print(f"smart-tuner: nothing has been decided in {folder} yet", file=sys.stderr)


def gather(folder: Path | str, run: str | None, would: bool) -> list[dict[str, Any]]:
    """The rows, in the order in which they were decided."""
    from ...consumers.reading import decision_rows

    return [row for row in decision_rows(folder, run) if not would or row["status"] == "would"]


def show(folder: Path | str, rows: list[dict[str, Any]], as_json: bool, names: Aliases) -> None:
    """The rows with what came of them, as JSON or as a table."""
    from ...consumers.hindsight import Hindsight
    from ...consumers.reading import spelled

    seen = Hindsight(folder, rows, names)
    for row in rows:
        known = seen.of(row)
        row["hindsight"] = known and {name: spelled(value) if isinstance(value, float) else value for name, value in known.items()}
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    from .tables import print_table

    print_table(HEAD, [(*line(row)[:-1], in_short(row["hindsight"]), row["id"]) for row in rows])


def in_short(hindsight: dict[str, Any] | None) -> str:
    """What came of a decision, in a few words.

    >>> in_short({"improved_after": True}), in_short({"lost": 0.0, "steps_saved": 40}), in_short({"unknown": "why"})
    ('got better without', 'right: 40 steps saved', 'unknown')
    >>> in_short({"lost": 0.034, "steps_saved": 40}), in_short({"lost": "Infinity", "steps_saved": 0})
    ('3.4 % of the best lost, 40 steps saved', 'the best lost, 0 steps saved')
    """
    if hindsight is None:
        return ""
    if "unknown" in hindsight:
        return "unknown"
    if "improved_after" in hindsight:
        return {True: "got better without", False: "no better without", None: "nothing followed"}[hindsight["improved_after"]]
    lost, saved = float(hindsight["lost"]), f"{hindsight['steps_saved']} steps saved"
    if lost <= RIGHT:
        return f"right: {saved}"
    return f"{'the' if math.isinf(lost) else f'{100 * lost:.3g} % of the'} best lost, {saved}"


def line(row: dict[str, Any]) -> tuple[str, ...]:
    """One decision as cells."""
    step = row["applied_step"] if row["applied_step"] is not None else row["step"]
    why = f"{row['reason']} ({row['refused_by']})" if row["refused_by"] else row["reason"]
    cells = (
        row["time"][:19],
        row["run"],
        row["action"],
        row["status"],
        "" if step is None else str(step),
        row["policy"],
        why,
        row["id"],
    )
    return tuple(str(cell) for cell in cells)


def go_on(folder: Path | str, run: str | None, would: bool, as_json: bool) -> None:
    """A line for each decision and for each answer, as they become visible."""
    shown: dict[str, str] = {}
    while True:
        for row in gather(folder, run, would):
            if shown.get(row["id"]) != row["status"]:
                shown[row["id"]] = row["status"]
                print(json.dumps(row) if as_json else "\t".join(line(row)), flush=True)
        time.sleep(LOOK_S)
