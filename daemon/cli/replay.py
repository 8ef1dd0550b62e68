"""`smart-tuner replay`: what policies would have done to past runs, what that saves and what it costs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...core.errors import UsageError
from .options import DataDir, Json, given, store

if TYPE_CHECKING:
    from ...consumers.aliases import Aliases
    from ...consumers.past_trials import Asked, Past
    from ...consumers.replay import Outcome
    from ...consumers.rules import Rule
    from ...consumers.scope import Rules, Scope
    from ...core.run import RunRecord

HEAD = ("policy", "runs", "groups", "decisions", "compute saved", "best trial cut", "groups losing > 1 %", "loss p95", "worst")
RUNS_HEAD = ("policy", "group", "run", "stopped at", "of steps", "best before", "best after", "why")
DEFAULT, CONFIGURED = "default", "configured"
PRIMARY = "val_loss"
"""What is judged of a run that names nothing, unless the configuration says else."""


def register(app: typer.Typer) -> None:
    """Adds `replay`."""

    @app.command(
        epilog="Example: smart-tuner replay curves.parquet --group-by group --policy default --policy 'patience(patience=5)'"
    )
    def replay(
        context: typer.Context,
        path: Annotated[
            Path | None,
            typer.Argument(
                metavar="[PATH]",
                help="A .parquet or .csv table (run or trial, step, value, group, higher_is_better), a tree of TensorBoard "
                "event files, or a data directory; else what is stored.",
                show_default=False,
            ),
        ] = None,
        policy: Annotated[
            list[str] | None,
            typer.Option(
                "--policy",
                "-p",
                metavar="P",
                help="`default` (the shipped set), `configured` (what the configuration says), or a condition such as "
                "'median' or 'patience(patience=5) & ~improvement'; may be repeated.",
            ),
        ] = None,
        group_by: Annotated[
            str | None,
            typer.Option(
                metavar="G", help="What groups runs: a table's column; of stored runs group, user, host, tags.T, params.P."
            ),
        ] = None,
        series: Annotated[str | None, typer.Option(metavar="NAME", help="The series that is judged.")] = None,
        goal: Annotated[Literal["min", "max"] | None, typer.Option(help="Whether it is better low or high.")] = None,
        runs: Annotated[bool, typer.Option("--runs", help="A line a run: where it would have been ended.")] = False,
        as_json: Json = False,
        data_dir: DataDir = None,
    ) -> None:
        """What policies would have done to past runs, each seeing only what a live daemon would have known."""
        from ...consumers.past_trials import Asked
        from ...consumers.score import row, score

        asked, source = Asked(group_by, series, goal), path if path is not None else store(context, data_dir)
        sets = [chosen(context, name) for name in policy or [DEFAULT]]
        aliases = next((one.aliases for one in sets if one.name == CONFIGURED), sets[0].aliases)
        past = read(source, asked, sorted(set().union(*(one.judged for one in sets))), aliases)
        if past.skipped:
            print(f"smart-tuner: {past.skipped} rows had no step or no number and were left out", file=sys.stderr)
        lines = []
        for one in sets:
            outcomes = dict(replayed(one, past))
            if runs:
                lines += [row(one.name, outcome) for group in outcomes.values() for outcome in group]
            else:
                lines.append(score(one.name, outcomes))
        show(lines, runs, as_json)


@dataclass(frozen=True)
class Judgement:
    """One --policy: what judges each run, all of which acts here, and the series that it may look at."""

    name: str
    rules: Rules
    judged: Collection[str]
    aliases: Aliases


def chosen(context: typer.Context, name: str) -> Judgement:
    """What one --policy stands for."""
    from ...consumers import early_stop_controller, param_scheduler
    from ...consumers.condition_text import composite, parse
    from ...consumers.conditions import Leaf
    from ...consumers.rules import Rule

    if name == CONFIGURED:
        return configured(given(context).config)
    if name == DEFAULT:
        return same_for_all(name, [*early_stop_controller.rules({}, "act"), *param_scheduler.rules({}, "act")])
    condition = parse(name)
    one = condition.policy if isinstance(condition, Leaf) else composite("replay", name)
    return same_for_all(name, [Rule(one, None, "act")])


def same_for_all(name: str, rules: Sequence[Rule]) -> Judgement:
    """Rules that judge every run, by the series that it monitors."""
    from ...consumers.aliases import ALIASES
    from ...consumers.rules import monitored_goal
    from ...consumers.scope import Scope

    def scope(record: RunRecord) -> Scope:
        return Scope(rules, record.said.monitor or PRIMARY, monitored_goal(rules, record.said.goal))

    return Judgement(name, scope, {PRIMARY, *(one.series for one in rules if one.series)}, ALIASES)


def configured(path: Path | None) -> Judgement:
    """Each run by the configuration's entry for it, and by what its job stated within the limits of that entry."""
    from ..config import load
    from ..rule_book import RuleBook

    book = RuleBook(load(path, os.environ).config)

    def scope(record: RunRecord) -> Scope:
        found = book(record)
        return replace(found, rules=[replace(one, mode="act") for one in found.rules])

    judged = {name for entry in book.entries for name in (entry.monitor, *(one.series for one in entry.rules)) if name}
    return Judgement(CONFIGURED, scope, judged, book.aliases)


def read(source: Path | str, asked: Asked, judged: Collection[str], aliases: Aliases) -> Past:
    """The trials of a table, a tree of event files, or a store."""
    from ...consumers.past_store import event_trials, is_event_tree, stored_trials
    from ...consumers.past_trials import read_table, trials_of

    if isinstance(source, Path) and source.is_file():
        return trials_of(read_table(source), asked)
    if isinstance(source, Path) and not source.exists():
        raise UsageError(f"there is no {source}", "name a table, a tree of event files or a data directory")
    if isinstance(source, Path) and not (source / "metrics").is_dir() and is_event_tree(source):
        return event_trials(source, asked, judged, aliases)
    return stored_trials(source, asked, judged, aliases)


def replayed(judgement: Judgement, past: Past) -> Iterator[tuple[str, list[Outcome]]]:
    """The outcomes of each group; how far it is, on a terminal."""
    from ...consumers.replay import Replay
    from ..gates import Gates

    shown = sys.stderr.isatty()
    for at, (label, trials) in enumerate(past.groups.items(), 1):
        if shown and at % 10 == 0:
            print(f"\r{judgement.name}: group {at} of {len(past.groups)}", end="", file=sys.stderr, flush=True)
        yield label, Replay(judgement.rules, Gates(), PRIMARY).run(trials)
    if shown:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def show(lines: list[dict[str, Any]], runs: bool, as_json: bool) -> None:
    """Lines of policies or of runs, as a table or as JSON."""
    if as_json:
        for line in lines:
            print(json.dumps(line, allow_nan=False, default=str))
        return
    from .tables import print_table

    print_table(RUNS_HEAD if runs else HEAD, [run_cells(line) if runs else cells(line) for line in lines])


def cells(line: dict[str, Any]) -> tuple[str, ...]:
    """One policy as cells."""
    lost = line["loss_of_best"]
    return (
        line["policy"], str(line["runs"]), str(line["groups"]), str(line["decisions"]), f"{line['compute_saved']:.1%}",
        f"{line['best_trial_cut']:.1%}", f"{line['groups_losing_more_than_1_percent']:.1%}",
        f"{float(lost['p95']):.2%}", f"{float(lost['p100']):.2%}",
    )  # fmt: skip


def run_cells(line: dict[str, Any]) -> tuple[str, ...]:
    """One run as cells."""
    at = line["stopped_at"]
    return (
        line["policy"], line["group"] or "", line["run"], "" if at is None else str(at), str(line["steps"]),
        _number(line["best_before"]), _number(line["best_after"]), line["reason"] or "",
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
