"""`smart-tuner runs`: what is and was attached, and by what it is judged."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...bus.places import Place
from ...core.errors import ConfigError, Unavailable
from .options import DataDir, Json, given, place, store
from .stored import known_run

if TYPE_CHECKING:
    from ..rule_book import RuleBook

HEAD = ("run", "attempt", "state", "last point", "judged by", "control", "user", "started")
LOOK_S = 1.0
MAX_REASON = 40


def register(app: typer.Typer) -> None:
    """Adds `runs`."""

    @app.command(epilog="Example: smart-tuner runs --watch")
    def runs(
        context: typer.Context,
        run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only this run.", show_default=False)] = None,
        watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again each second until Ctrl-C.")] = False,
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """Every attempt with its state, last point, and what it is judged by (or why it is not)."""
        here, folder = place(context, data_dir), store(context, data_dir)
        if run is not None:
            known_run(folder, run)
        if watch and not as_json and sys.stdout.isatty():
            follow(here, folder, run, Book(given(context).config))
            return
        rows = gather(here, folder, run, Book(given(context).config))
        if as_json:
            for row in rows:
                print(json.dumps(row))
        elif rows:
            from .tables import print_table

            print_table(HEAD, [line(row) for row in rows])
        else:
            print(f"smart-tuner: no run has been attached in {folder} yet", file=sys.stderr)
            print("    hint: two lines in a training attach it, see docs/sdk.md", file=sys.stderr)


class Book:
    """What the configuration says of runs that no daemon knows any more; read when it is first asked for."""

    def __init__(self, config: Path | None) -> None:
        self._config = config
        self._rules: RuleBook | None = None

    def judged(self, row: dict[str, Any], series: dict[str, Any]) -> dict[str, str | None]:
        """By what a run was judged; where its own word does not tell, by what the configuration says now."""
        monitor = row.get("monitor")
        if monitor in series:
            return {"judged_by": f"{monitor} {row.get('goal') or 'min'}", "not_judged": None}
        if row["state"] == "running":
            return {"judged_by": None, "not_judged": "no daemon serves it"}
        from ..judged import by_names
        from ..rule_book import stated_within
        from .explaining import record_of

        try:
            book, record = self._read(), record_of(row)
        except ConfigError:
            return {"judged_by": None, "not_judged": "its judged series is not known: the configuration is broken"}
        entry = book.entry_of(record)
        by, not_because = by_names(book.scope(entry, stated_within(entry, record)), tuple(series))
        return {"judged_by": by, "not_judged": not_because}

    def _read(self) -> RuleBook:
        if self._rules is None:
            from ..config import load
            from ..rule_book import RuleBook

            self._rules = RuleBook(load(self._config, os.environ).config)
        return self._rules


def gather(here: Place, folder: Path | str, run: str | None, book: Book) -> list[dict[str, Any]]:
    """The stored rows, with what a daemon that listens knows of the live ones; without one from the files alone."""
    from ...consumers.reading import last_points, rfc3339_of, run_rows

    live = {one["attempt"]: one for one in _ask(here)}
    rows = run_rows(folder, run)
    stored = {row["attempt"] for row in rows}
    for name, one in live.items():
        if name not in stored and run in (None, one["run"]):
            rows.append({"run": one["run"], "attempt": name, "state": one["state"]})
    points = last_points(folder, run) if any(row["attempt"] not in live for row in rows) else {}
    for row in rows:
        known = live.get(row["attempt"])
        if known is None:
            series = points.get(row["attempt"], {})
            row |= {"control": "none", "series": series, **book.judged(row, series), "concurrent": False}
        else:
            series = {name: {**last, "time": rfc3339_of(last["time"])} for name, last in known["series"].items()}
            row |= {name: known[name] for name in ("control", "judged_by", "not_judged", "concurrent")} | {"series": series}
        row["last_metric"] = max((last["time"] for last in row["series"].values()), default=None)
    return rows


def _ask(here: Place) -> list[dict[str, Any]]:
    from ...bus.query import ask

    try:
        found: list[dict[str, Any]] = ask(here.listener, {"query": "runs"}, 5.0)["runs"]
    except Unavailable:
        return []
    return found


def line(row: dict[str, Any]) -> tuple[str, ...]:
    """One attempt as cells."""
    number = row.get("attempt_number")
    attempt = f"{number}" if number else row["attempt"][-6:]
    return (
        row["run"],
        attempt,
        row["state"] + (" (concurrent)" if row["concurrent"] else "") + _ended(row.get("ended_by")),
        _last(row),
        row["judged_by"] or f"not judged: {row['not_judged']}",
        row["control"],
        row.get("user") or "",
        (row.get("started") or "")[:19],
    )


def _ended(by: str | None) -> str:
    """Why it ended, short; the whole sentence is in --json and in `decisions`."""
    if not by:
        return ""
    return f": {by}" if len(by) <= MAX_REASON else f": {by[: MAX_REASON - 1]}…"


def _last(row: dict[str, Any]) -> str:
    series = row["series"]
    if not series:
        return ""
    judged = (row["judged_by"] or "").rsplit(" ", 1)[0]
    name = judged if judged in series else max(series, key=lambda one: series[one]["time"])
    return f"{name} {float(series[name]['value']):.5g} at {series[name]['step']}"


def follow(here: Place, folder: Path | str, run: str | None, book: Book) -> None:
    """A table that is drawn again each second; Ctrl-C ends it."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def draw() -> Table:
        table = Table(*HEAD)
        for row in gather(here, folder, run, book):
            table.add_row(*(Text(cell) for cell in line(row)))
        return table

    with Live(draw(), auto_refresh=False, screen=False) as shown:
        while True:
            time.sleep(LOOK_S)
            shown.update(draw(), refresh=True)
