"""`smart-tuner metrics`: what is stored of a run."""

from __future__ import annotations

import csv
import json
import sys
from typing import Annotated, Any, Literal

import typer

from ...core.errors import UsageError
from ...core.registry import did_you_mean
from .options import DataDir, Json, store
from .stored import known_run

COLUMNS = ("time", "attempt", "series", "step", "value")


def register(app: typer.Typer) -> None:
    """Adds `metrics`."""

    @app.command(epilog="Example: smart-tuner metrics my-run val_loss --last 20")
    def metrics(
        context: typer.Context,
        run: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
        series: Annotated[
            list[str] | None, typer.Argument(metavar="[SERIES]...", help="Only these series.", show_default=False)
        ] = None,
        last: Annotated[int | None, typer.Option("--last", min=1, metavar="N", help="Only the last N of each series.")] = None,
        attempts: Annotated[Literal["current", "all"], typer.Option(help="The newest attempt, or all.")] = "current",
        as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, with every stored column.")] = False,
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """The stored points of a run, by series and step. Reads the files; needs no daemon."""
        from ...consumers.reading import metric_table, plain_rows

        folder = store(context, data_dir)
        known_run(folder, run)
        rows = list(plain_rows(metric_table(folder, run, series or None, attempts)))
        check(folder, run, series or [], rows, attempts)
        if last is not None:
            rows = tail(rows, last)
        if as_json:
            for row in rows:
                print(json.dumps(row))
        elif as_csv:
            write_csv(rows)
        else:
            from .tables import print_table

            print_table(COLUMNS, [tuple(_cell(row[name]) for name in COLUMNS) for row in rows])


def check(folder: Any, run: str, series: list[str], rows: list[dict[str, Any]], attempts: Literal["current", "all"]) -> None:
    """UsageError for a series that the run does not have."""
    from ...consumers.reading import metric_table

    missing = set(series) - {row["series"] for row in rows}
    if missing:
        known = sorted(set(metric_table(folder, run, None, attempts)["series"].to_pylist()))
        name = sorted(missing)[0]
        raise UsageError(f"run {run} has no series {name!r}", did_you_mean(name, known) if known else "it has logged nothing yet")


def tail(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The last `count` rows of each attempt and series; the rows are sorted by them."""
    kept: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        kept.setdefault((row["attempt"], row["series"]), []).append(row)
    return [row for group in kept.values() for row in group[-count:]]


def write_csv(rows: list[dict[str, Any]]) -> None:
    """All columns, a head first; numbers that are not finite as NaN, Infinity, -Infinity."""
    names = ("time", "run", "attempt", "series", "step", "value", "source", "seq", "partition", "offset")
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
