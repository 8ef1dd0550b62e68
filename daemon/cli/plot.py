"""`smart-tuner plot`: curves with the decisions on them, as a file that any browser shows offline."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...core.errors import SmartTunerError, UsageError
from .options import DataDir, Json, aliases, store

if TYPE_CHECKING:
    from ...consumers.figures.stored import Drawn


def register(app: typer.Typer) -> None:
    """Adds `plot`."""

    @app.command(epilog="Example: smart-tuner plot my-run val_loss -o my-run.svg")
    def plot(
        context: typer.Context,
        name: Annotated[str, typer.Argument(metavar="RUN|GROUP", help="A run's name, or a group's: all its runs.")],
        series: Annotated[
            list[str] | None, typer.Argument(metavar="[SERIES]...", help="Only these series.", show_default=False)
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option(
                "-o", "--output", metavar="FILE", help="FILE.html or FILE.svg, - for SVG on stdout (else NAME.html here)."
            ),
        ] = None,
        log: Annotated[bool, typer.Option("--log", help="Logarithmic values.")] = False,
        attempts: Annotated[Literal["current", "all"], typer.Option(help="The newest attempt, or all.")] = "current",
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """Draws what a run logged, or the judged series of a group, with the decisions on it. Reads the files; needs no daemon."""
        path = output or Path(re.sub(r"[^A-Za-z0-9._-]", "_", name) + ".html")
        form = checked_form(path)
        from ...consumers.figures.stored import figure_of, find_subject

        folder = store(context, data_dir)
        drawn = figure_of(folder, find_subject(folder, name, attempts, aliases(context)), series or (), log=log)
        text = written(folder, drawn, form)
        if str(path) == "-":
            print(text, end="")
            return
        replace(path, text)
        if as_json:
            print(json.dumps(summary(path, drawn)))
        else:
            print(path)
        for note in drawn.figure.notes:
            print(f"smart-tuner: {note}", file=sys.stderr)


def checked_form(path: Path) -> str:
    """svg or html, by the name."""
    form = "svg" if str(path) == "-" else path.suffix.lower().removeprefix(".")
    if form not in ("svg", "html"):
        raise UsageError(
            f"{path} says neither SVG nor HTML", f"write -o {path.stem or 'plot'}.svg or -o {path.stem or 'plot'}.html"
        )
    return form


def written(folder: Path | str, drawn: Drawn, form: str) -> str:
    """The file's text; of what was only concluded a page says in hindsight whether it was right."""
    from ...consumers.figures.drawing import svg_text

    if form == "svg":
        return svg_text(drawn.figure)
    from ...consumers.figures.page import page_text
    from ...consumers.figures.stored import answer, label, step_of
    from ...consumers.hindsight import Hindsight
    from .decisions import in_short

    seen = Hindsight(folder, drawn.decisions, drawn.subject.aliases)
    cells = []
    for row in drawn.decisions:
        came_of_it = answer(row) or in_short(seen.of(row))
        step = step_of(row)
        cells.append((row["time"][:19], row["run"], step, label(row), row["status"], row["reason"], row["policy"], came_of_it))
    return page_text(drawn.figure, cells)


def replace(path: Path, text: str) -> None:
    """Puts the file there whole, or leaves what is there."""
    if path.exists() and not path.is_file():
        raise SmartTunerError(f"{path} is no file that can be replaced", "name another with -o")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise SmartTunerError(f"{path}: {error.strerror}", "name another file with -o") from error


def summary(path: Path, drawn: Drawn) -> dict[str, Any]:
    """What --json tells."""
    panels = drawn.figure.panels
    return {
        "file": str(path),
        "runs": drawn.subject.runs,
        "series": [panel.name for panel in panels],
        "points": sum(len(curve.steps) for panel in panels for curve in panel.curves),
        "decisions": len(drawn.decisions),
        "notes": list(drawn.figure.notes),
    }
