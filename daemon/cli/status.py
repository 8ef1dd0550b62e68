"""`smart-tuner status`: is the daemon well, and what has it counted."""

from __future__ import annotations

import json
from typing import Any

import typer

from ...core.errors import Unavailable
from .options import DataDir, Json, place

DEGRADED = 1


def register(app: typer.Typer) -> None:
    """Adds `status`."""

    @app.command(epilog="Example: smart-tuner status --json")
    def status(context: typer.Context, as_json: Json = False, data_dir: DataDir = None) -> None:
        """How the daemon is: lanes, lag, counters. Exits 0 healthy, 1 degraded, 4 when no daemon answers."""
        from ...bus.query import ask

        here = place(context, data_dir)
        try:
            found = ask(here.listener, {"query": "status"}, 5.0)
        except Unavailable:
            if as_json:
                print(json.dumps({"daemon": None, "data_dir": str(here.folder), "problems": ["no daemon answers"]}))
            raise
        print(json.dumps(found)) if as_json else show(found)
        if found["problems"]:
            raise typer.Exit(DEGRADED)


def show(found: dict[str, Any]) -> None:
    """The status as plain lines."""
    from .tables import print_table

    daemon = found["daemon"]
    print(f"smart-tuner {daemon['version']}, pid {daemon['pid']}, up {daemon['uptime_s']:.0f} s, data in {found['data_dir']}")
    lanes = found["lanes"]
    print_table(
        ("lane", "state", "lag", "records/s", "errors", "last error"),
        [
            (one["name"], one["state"], str(one["lag"]), f"{one['rate']:.1f}", str(one["errors"]), one["last_error"])
            for one in lanes
        ],
    )
    counters = {name: value for name, value in sorted(found["counters"].items()) if value}
    print_table(("counter", "value"), [(name, str(value)) for name, value in counters.items()])
    for one in found.get("switches", []):
        print(switched(one))
    for problem in found["problems"]:
        print(f"problem: {problem}")
    if not found["problems"]:
        print(f"healthy; {found['jobs']} jobs attached")


def switched(one: dict[str, Any]) -> str:
    """A pause or a hold in one line."""
    end = f" until {one['until'][:19]}Z" if one["until"] else ""
    why = f" ({one['reason']})" if one["reason"] else ""
    word = "paused" if one["kind"] == "pause" else "held"
    return f"{word}: {one['run'] or 'all runs'}, by {one['by']} since {one['since'][:19]}Z{end}{why}"
