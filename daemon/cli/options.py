"""Options that several commands share, and where a command finds its data directory."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...bus.places import Place, find_place
from ...core.errors import ConfigError

if TYPE_CHECKING:
    from ...consumers.aliases import Aliases

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="The data directory (else SMART_TUNER_DATA_DIR, a system service, your own)."),
]
BusUrl = Annotated[
    str | None, typer.Option("--bus", metavar="URL", help="local: or kafka://host:port[,...] (else SMART_TUNER_BUS).")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The configuration (else SMART_TUNER_CONFIG, ...).")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, or one a line for lists.")]


@dataclass(frozen=True)
class Given:
    """What was typed before the command."""

    data_dir: Path | None = None
    bus: str | None = None
    config: Path | None = None


def given(context: typer.Context) -> Given:
    """What was typed before the command, also when it is run without the root command (tests)."""
    found = context.find_root().obj
    return found if isinstance(found, Given) else Given()


def place(context: typer.Context, data_dir: Path | None = None, bus: str | None = None) -> Place:
    """Where the data lies: the command's own option, the root's, then the search of bus/places.py."""
    root = given(context)
    return find_place(os.environ, data_dir or root.data_dir, bus or root.bus)


def store(context: typer.Context, data_dir: Path | None = None) -> Path | str:
    """Where the stored tables are read: a URL given as the data directory, a data directory that has some, else what the
    configuration says under store.url."""
    typed = str(data_dir or given(context).data_dir or os.environ.get("SMART_TUNER_DATA_DIR") or "")
    scheme, found, rest = typed.partition(":/")
    if found and scheme in ("s3", "file"):
        return f"{scheme}://{rest.lstrip('/')}" if scheme == "s3" else "/" + rest.lstrip("/")
    folder = place(context, data_dir).folder
    url = None if (folder / "metrics").is_dir() else _configured(context)
    return folder if url is None else url if "://" in url else folder / os.path.expanduser(url)


def _configured(context: typer.Context) -> str | None:
    """store.url; None where no configuration states one, or what reads it is not installed (the extra `read`)."""
    if os.environ.get("SMART_TUNER__STORE__URL"):
        return os.environ["SMART_TUNER__STORE__URL"]
    try:
        from ..config import load
    except ImportError:
        return None
    return load(given(context).config, os.environ).config.store.url


def aliases(context: typer.Context) -> Aliases:
    """The names that series go by: the shipped lists, and what a configuration puts in their place. One that cannot be read
    does not keep anybody from reading what is stored."""
    from ...consumers.aliases import ALIASES, Aliases, merged
    from ..config_place import none_stated

    config = given(context).config
    if none_stated(config, os.environ):
        return ALIASES
    try:
        from ..config import load

        return Aliases(merged(load(config, os.environ).config.monitoring.aliases))
    except (ImportError, ConfigError) as error:
        print(f"smart-tuner: the shipped names of series are used: {error}", file=sys.stderr)
        return ALIASES
