"""`smart-tuner pause`, `resume`, `hold`, `unhold`: the hand on the switch."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer

from ...core.errors import Forbidden, UsageError
from .options import DataDir, Json, place

Run = Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run's name.", show_default=False)]
OneRun = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
All = Annotated[bool, typer.Option("--all", help="All runs, also those that start later.")]
Reason = Annotated[str, typer.Option(help="Why; it is shown wherever the switch is.")]
Length = Annotated[str | None, typer.Option("--for", metavar="DURATION", help="It ends by itself after so long: 90s, 30m, 2h, 7d.")]
IN_FORCE_S = 10.0
"""The daemon's judge has read a request long before, unless it is behind or failing."""


def register(app: typer.Typer) -> None:
    """Adds the four."""

    @app.command(epilog="Example: smart-tuner pause --all --for 2h --reason 'the file server is slow'")
    def pause(
        context: typer.Context,
        run: Run = None,
        everyone: All = False,
        length: Length = None,
        reason: Reason = "",
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """What policies decide becomes `would`, until resume; what a person decides still passes. Survives restarts."""
        switch(context, data_dir, as_json, _query("pause", run, everyone, reason, length))

    @app.command(epilog="Example: smart-tuner resume --all")
    def resume(
        context: typer.Context,
        run: Run = None,
        everyone: All = False,
        reason: Reason = "",
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """Ends a pause: of one run, or with --all that of all (a run that was paused by itself stays so)."""
        switch(context, data_dir, as_json, _query("resume", run, everyone, reason))

    @app.command(epilog="Example: smart-tuner hold my-run --for 7d --reason 'the baseline of the paper'")
    def hold(
        context: typer.Context,
        run: OneRun,
        length: Length = None,
        reason: Reason = "",
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """Nothing ends this run, nor a later attempt of it, until unhold; all other decisions go on. Survives restarts."""
        switch(context, data_dir, as_json, _query("hold", run, False, reason, length))

    @app.command(epilog="Example: smart-tuner unhold my-run")
    def unhold(context: typer.Context, run: OneRun, reason: Reason = "", as_json: Json = False, data_dir: DataDir = None) -> None:
        """Ends a hold."""
        switch(context, data_dir, as_json, _query("unhold", run, False, reason))


def _query(action: str, run: str | None, everyone: bool, reason: str, length: str | None = None) -> dict[str, Any]:
    if everyone == (run is not None):
        said = "a run and --all exclude each other" if everyone else "which run?"
        raise UsageError(said, f"smart-tuner {action} RUN, or smart-tuner {action} --all")
    query = {"query": "switch", "action": action, "run": run, "all": everyone, "reason": reason}
    return query if length is None else query | {"for_s": seconds(length)}


def seconds(length: str) -> float:
    """A duration as the configuration has them; UsageError for what is none."""
    from pydantic_core import PydanticCustomError

    from ..config_types import seconds as parsed

    try:
        found = parsed(length)
    except PydanticCustomError as error:
        context = error.context or {}
        raise UsageError(f"--for: {context.get('said')}", str(context.get("hint") or "--for 2h")) from None
    if not found > 0:
        raise UsageError(f"--for: {length} is not above 0", "--for 2h")
    return found


def switch(context: typer.Context, data_dir: Any, as_json: bool, query: dict[str, Any]) -> None:
    """Asks the daemon, waits until its judge has read the request, and says what is in force."""
    from ...bus.query import ask

    here = place(context, data_dir).listener
    answer = ask(here, query, 10.0)
    if "refused" in answer:
        raise Forbidden(answer["refused"], answer.get("hint", ""))
    until = time.monotonic() + IN_FORCE_S
    known = {"query": "switches", "request": answer["request"]}
    while (in_force := ask(here, known, 10.0)["in_force"]) is False and time.monotonic() < until:
        time.sleep(0.02)
    answer["in_force"] = in_force
    print(json.dumps(answer) if as_json else said(answer))
    if not in_force:
        print("smart-tuner: sent; in force once those who judge have read it, see smart-tuner status", file=sys.stderr)
    if answer["stays"]:
        print(f"smart-tuner: it stays paused: {answer['stays']}\n    hint: smart-tuner resume --all", file=sys.stderr)


def said(answer: dict[str, Any]) -> str:
    """What was done, in one line."""
    run, action = answer["run"] or "all runs", answer["action"]
    if action in ("resume", "unhold"):
        word = "paused" if action == "resume" else "held"
        return f"{word} no more: {run}" if answer["was"] else f"{run}: was not {word}, nothing changed"
    end = "" if answer["for_s"] is None else f" for {answer['for_s']:g} s"
    why = f" ({answer['reason']})" if answer["reason"] else ""
    return f"{'paused' if action == 'pause' else 'held'}: {run}{end}{why}"
