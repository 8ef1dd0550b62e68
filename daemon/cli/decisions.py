"""`smart-tuner decisions`: what was decided, why, and what the job answered."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import DataDir, Json, store
from .stored import known_run

HEAD = ("time", "run", "action", "status", "step", "policy", "reason", "id")
LOOK_S = 0.5


def register(app: typer.Typer) -> None:
    """Adds `decisions`."""

    @app.command(epilog="Example: smart-tuner decisions my-run --json | jq .reason")
    def decisions(
        context: typer.Context,
        run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only this run.", show_default=False)] = None,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
        would: Annotated[bool, typer.Option("--would", help="Only what would have been done.")] = False,
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """Every decision with its reason, evidence and the job's answer. Reads the files; needs no daemon."""
        folder = store(context, data_dir)
        if run is not None and not follow:
            known_run(folder, run)
        rows = gather(folder, run, would)
        if follow:
            go_on(folder, run, would, as_json)
        elif as_json:
            for row in rows:
                print(json.dumps(row))
        elif rows:
            from .tables import print_table

            print_table(HEAD, [line(row) for row in rows])
        else:
            print(f"smart-tuner: nothing has been decided in {folder} yet", file=sys.stderr)


def gather(folder: Path | str, run: str | None, would: bool) -> list[dict[str, Any]]:
    """The rows, in the order in which they were decided."""
    from ...consumers.reading import decision_rows

    return [row for row in decision_rows(folder, run) if not would or row["status"] == "would"]


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
