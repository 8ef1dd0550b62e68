"""What `config explain` knows of a run: from the daemon that judges it, from what is stored of it, or from what was typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bus.places import Place
from ...core.errors import Unavailable, UsageError
from ...core.events import Started
from ...core.run import RunRecord

if TYPE_CHECKING:
    from ..config import Loaded

NOT_STORED = "mode= of the job is not stored: this is as if it stated none"


def known(here: Place, folder: Path | str, run: str, load: Callable[[], Loaded]) -> dict[str, Any]:
    """A run that is there: as the daemon sees it, else as it is stored, by the configuration that `load` gives."""
    from ...bus.query import ask

    try:
        told = ask(here.listener, {"query": "explain", "run": run}, 5.0).get("explanation")
    except Unavailable:
        told = None
    except UsageError:  # an older daemon does not know the question
        told = None
    return dict(told) if told else _stored(folder, run, load)


def _stored(folder: Path | str, run: str, load: Callable[[], Loaded]) -> dict[str, Any]:
    from ...consumers.reading import last_points, run_rows
    from ..explain import Explanation
    from .stored import known_run

    known_run(folder, run)
    rows = run_rows(folder, run)
    record = record_of(rows[-1]) if rows else RunRecord(run, "")
    series = last_points(folder, run).get(record.attempt, {})
    told = Explanation(load(), record, tuple(series)).plain()
    told["job"]["not_used"].append(NOT_STORED)
    return told


def record_of(row: Mapping[str, Any]) -> RunRecord:
    """What a stored row tells of its attempt."""
    said = Started(
        host=row["host"] or "",
        user=row["user"] or "",
        monitor=row["monitor"],
        goal=row["goal"],
        tags=row["tags"] or {},
        config=row["config"] or {},
        total_steps=row["total_steps"],
        policies=row["policies"] or {},
        sdk="stored" if row["host"] else "",
    )
    return RunRecord(row["run"], row["attempt"], row["group"], row["state"], said=said)


def imagined(loaded: Loaded, name: str, user: str, group: str | None, tags: list[str], source: str) -> dict[str, Any]:
    """A run that is not there yet; tags as KEY=VALUE."""
    from ..explain import Explanation

    stated = {}
    for one in tags:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise UsageError(f"--tag {one!r} is not KEY=VALUE", "write --tag team=speech")
        stated[key] = value
    said = Started(user=user, tags=stated, source=source)
    return Explanation(loaded, RunRecord(name, "", group, said=said)).plain()
