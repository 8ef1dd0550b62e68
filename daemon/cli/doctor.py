"""`smart-tuner doctor`: what is wrong here and what to do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import typer

from ...bus.places import Place
from ...core.errors import CorruptData, SmartTunerError, Unavailable
from .options import DataDir, Json, given

LOW_BYTES = 1 << 30
OPTIONAL = ("torch", "kafka", "optuna", "apprise", "watchdog", "tensorboard")
NEEDED = ("numpy", "pyarrow", "pandas", "pydantic", "yaml")


class Finding(NamedTuple):
    """One line: level ok, info, warning or error; what was found; what to do."""

    level: str
    what: str
    hint: str = ""


def register(app: typer.Typer) -> None:
    """Adds `doctor`."""

    @app.command(epilog="Example: smart-tuner doctor")
    def doctor(context: typer.Context, as_json: Json = False, data_dir: DataDir = None) -> None:
        """Looks for every data directory and daemon, runs that wait where no daemon reads, and what is missing here.

        Exits 0 when nothing is wrong, 1 when something is.
        """
        findings = list(examine(data_dir or given(context).data_dir))
        for one in findings:
            if as_json:
                print(json.dumps(one._asdict()))
            else:
                print(f"{one.level:8}{one.what}" + (f"\n        hint: {one.hint}" if one.hint else ""))
        if any(one.level == "error" for one in findings):
            raise typer.Exit(1)


def examine(data_dir: Path | None) -> Iterator[Finding]:
    """All findings, in the order in which a person would look."""
    from ...bus.places import list_places

    yield Finding("ok", f"Python {sys.version.split()[0]} at {sys.executable}")
    yield from _modules()
    for where in list_places(os.environ, data_dir):
        yield from _folder(where)
    yield from _waiting()


def _modules() -> Iterator[Finding]:
    from importlib.util import find_spec

    from ...trainer import calm

    for name in NEEDED:
        if find_spec(name) is None:
            yield Finding("error", f"{name} is not installed: the daemon cannot run here", 'pip install "smart-tuner[daemon]"')
    absent = [name for name in OPTIONAL if find_spec(name) is None]
    if absent:
        yield Finding("info", f"not installed, needed only for their own parts: {', '.join(absent)}")
    if not calm.compiled():
        what = "not compiled here: Python does what a watched training pays for at each step, at about three times the cost"
        yield Finding("info", what, "install a C compiler and Python's headers (python3-dev), then smart-tuner again")


def _folder(where: Place) -> Iterator[Finding]:
    folder, found_by = where.folder, where.found_by
    from ...bus.filesystem import remote

    if not folder.exists():
        yield Finding("info", f"{folder} ({found_by}): not there yet; a daemon makes it")
        return
    kind = remote(str(folder))
    if kind is not None:
        yield Finding("error", f"{folder} lies on {kind}", "put the data directory on a disk of this machine: --data-dir DIR")
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("warning", f"{folder} ({found_by}) is not writable for you", "run as its owner, or name your own --data-dir")
        return
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < LOW_BYTES:
        yield Finding(
            "warning", f"{folder}: only {free / 2**20:.0f} MiB free", "free some space; a full disk loses nothing but stops the log"
        )
    yield from _damaged(folder)
    yield _daemon(where)


def _damaged(folder: Path) -> Iterator[Finding]:
    aside = sorted(folder.glob("*.damaged-*")) + sorted(folder.glob("*/.damaged-*"))
    for path in aside:
        yield Finding(
            "warning", f"{path} was found damaged and moved aside", "look into it if you need what is in it, else delete it"
        )


def _daemon(where: Place) -> Finding:
    folder, found_by = where.folder, where.found_by
    from ...bus.query import ask

    try:
        found: dict[str, Any] = ask(where.listener, {"query": "status"}, 3.0)
    except Unavailable as error:
        return Finding(
            "info", f"{folder} ({found_by}): no daemon ({error.message})", f"smart-tuner daemon --data-dir {quote(str(folder))}"
        )
    except SmartTunerError as error:
        return Finding("error", f"{folder}: {error.message}", error.hint)
    trouble = "; ".join(found["problems"])
    return Finding(
        "warning" if trouble else "ok",
        f"{folder} ({found_by}): daemon pid {found['daemon']['pid']}, {found['jobs']} jobs" + (f": {trouble}" if trouble else ""),
    )


def _waiting() -> Iterator[Finding]:
    """Spools whose daemon is not there: what they hold waits, nothing is lost."""
    from ...bus.places import spool_folders
    from ...bus.spool_file import memory_folder, open_spool, spool_paths
    from ...bus.spool_reader import SpoolReader

    for folder in (*spool_folders(os.environ), memory_folder()):
        for _, path in spool_paths(folder):
            found = open_spool(path)
            if found is None:
                yield Finding("warning", f"{path} is no spool that you can read", "delete it if its run is over")
                continue
            fd, identity = found
            try:
                reader = SpoolReader(fd)  # it owns the descriptor from here on
                waits, behind = not reader.drained, reader.behind
                reader.close()
            except CorruptData as error:
                yield Finding("warning", f"{path}: {error.message}", "delete it if its run is over")
                continue
            if waits and behind and not _served(identity.address):
                hint = f"smart-tuner daemon --data-dir {quote(identity.address)}"
                yield Finding("warning", f"run {identity.run}: {behind} bytes wait in {path}, no daemon reads them", hint)


def _served(address: str) -> bool:
    from ...bus.query import ask

    try:
        ask(address, {"query": "status"}, 3.0)
    except SmartTunerError:
        return False
    return True
