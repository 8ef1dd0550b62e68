"""`smart-tuner decide`: a decision by hand, through the same gates as a policy's."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ...core.errors import Forbidden, Unavailable, UsageError
from ...core.registry import did_you_mean
from ...core.standing import LR_ACTIONS
from .options import DataDir, Json, place, store

NUMBERS = {"set-lr": "value", "scale-lr": "factor"}
ACTIONS = ("set-lr", "scale-lr", "release-lr", "checkpoint", "restore", "prune")


def register(app: typer.Typer) -> None:
    """Adds `decide`."""

    @app.command(epilog="Example: smart-tuner decide my-run scale-lr 0.5 --reason 'it oscillates' --wait")
    def decide(
        context: typer.Context,
        run: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
        action: Annotated[
            str,
            typer.Argument(metavar="ACTION", help="set-lr V, scale-lr F, release-lr, checkpoint, restore best|last|STEP, prune"),
        ],
        value: Annotated[
            str | None, typer.Argument(metavar="[VALUE]", help="The number of set-lr and scale-lr; what to restore.")
        ] = None,
        reason: Annotated[str, typer.Option(help="Why; it is stored with the decision.")] = "",
        optimizer: Annotated[
            str | None,
            typer.Option(metavar="NAME", help="A learning rate of this optimizer only (its name in the job, or number)."),
        ] = None,
        group: Annotated[
            list[str] | None, typer.Option(metavar="GROUP", help="A learning rate of this parameter group only; may be repeated.")
        ] = None,
        min_lr: Annotated[float | None, typer.Option(min=0.0, metavar="LR", help="scale-lr goes no lower from here on.")] = None,
        wait: Annotated[bool, typer.Option("--wait", help="Wait for the job's answer.")] = False,
        timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How long --wait waits.")] = 60.0,
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """Decides about a live run by hand; it passes the same gates as a policy's decision."""
        from ...bus.query import ask

        here = place(context, data_dir)
        params = parameters(action, value) | of_parts(action, optimizer, group or [], min_lr)
        query = {"query": "request", "run": run, "action": action, "params": params, "reason": reason}
        answer = ask(here.listener, query, 10.0)
        if "refused" in answer:
            raise Forbidden(answer["refused"], answer.get("hint", ""))
        if not wait:
            say(answer | {"status": "sent"}, as_json)
            return
        row = wait_for(store(context, data_dir), answer["id"], timeout)
        say(row, as_json)
        if row["status"] != "applied":
            raise Forbidden(
                f"{action} was not applied: {row['status']}: {row.get('refused_by') or row.get('reason')}",
                "see smart-tuner decisions " + run,
            )


def parameters(action: str, value: str | None) -> dict[str, Any]:
    """What the action needs, checked at the door: a number above 0, a step, or nothing."""
    if action not in ACTIONS:
        raise UsageError(f"no action is called {action!r}", did_you_mean(action, list(ACTIONS)))
    if action in NUMBERS:
        try:
            number = float(value or "")
        except ValueError:
            raise UsageError(f"{action} wants a number, not {value!r}", f"smart-tuner decide RUN {action} 0.5") from None
        if not 0 < number < float("inf"):
            raise UsageError(f"{action} wants a number above 0, not {value}", "to end a run use prune")
        return {NUMBERS[action]: number}
    if action == "restore":
        to = value or "best"
        if to not in ("best", "last") and not to.isdigit():
            raise UsageError(f"restore wants best, last or a step, not {to!r}", "smart-tuner decide RUN restore best")
        return {"to": int(to) if to.isdigit() else to}
    if value is not None:
        raise UsageError(f"{action} takes no value, got {value!r}", f"smart-tuner decide RUN {action}")
    return {}


def of_parts(action: str, optimizer: str | None, groups: list[str], min_lr: float | None) -> dict[str, Any]:
    """Which part of a job's learning rates is meant."""
    found: dict[str, Any] = {"optimizer": optimizer, "groups": groups or None, "min_lr": min_lr}
    found = {name: said for name, said in found.items() if said is not None}
    if found and action not in LR_ACTIONS:
        raise UsageError(f"--optimizer, --group and --min-lr are about learning rates, not {action}", "leave them out")
    if min_lr is not None and action != "scale-lr":
        raise UsageError(f"--min-lr goes with scale-lr, not {action}", "leave it out")
    return found


def wait_for(folder: Path | str, decision: str, timeout_s: float) -> dict[str, Any]:
    """The decision's row once the job or a gate has answered; Unavailable when that takes too long."""
    from ...consumers.reading import decision_rows

    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        for row in decision_rows(folder):
            if row["id"] == decision and row["status"] != "pending":
                return row
        time.sleep(0.1)
    raise Unavailable(f"no answer within {timeout_s:g} s", "the job answers at its next step boundary; see smart-tuner decisions")


def say(row: dict[str, Any], as_json: bool) -> None:
    """One decision on stdout."""
    if as_json:
        print(json.dumps(row))
    elif row["status"] == "sent":
        print(f"sent: {row['action']} to {row['run']} ({row['id']})")
    else:
        step = row.get("applied_step")
        print(f"{row['status']}: {row['action']} of {row['run']}" + ("" if step is None else f" at step {step}"))
