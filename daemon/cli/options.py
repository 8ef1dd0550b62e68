"""Options that several commands share, and where a command finds its data directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...bus.places import Place, find_place

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
