"""`smart-tuner daemon`: the long-running process, in the foreground."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .options import BusUrl, ConfigFile, DataDir, given, place


def register(app: typer.Typer) -> None:
    """Adds `daemon`."""

    @app.command(epilog="Example: smart-tuner daemon --config configs/enhanced-smart-tuner.yaml")
    def daemon(
        context: typer.Context,
        config: ConfigFile = None,
        data_dir: DataDir = None,
        bus: BusUrl = None,
        strict: Annotated[bool, typer.Option("--strict", help="What would be switched off with a warning is an error.")] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    ) -> None:
        """Runs in the foreground (systemd, a container's PID 1, a terminal); ends with 0 on SIGTERM and SIGINT."""
        logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(message)s")
        raise typer.Exit(serve(context, config or given(context).config, data_dir, bus, strict))


def serve(context: typer.Context, config: Path | None, data_dir: Path | None, bus: str | None, strict: bool) -> int:
    """Puts the daemon together, runs it until it is told to stop; its exit code."""
    from ..config import load
    from ..garbage import look_seldom
    from ..notify import Notifier
    from ..signals import Signals
    from ..supervisor import Supervisor
    from ..wiring import Host

    loaded = load(config, os.environ, strict=strict)
    for warning in loaded.warnings:
        logging.warning("%s", warning)
    with Signals() as inbox:
        url = bus or given(context).bus or os.environ.get("SMART_TUNER_BUS") or loaded.config.bus.url
        notifier = Notifier.of(os.environ, os.getpid())
        host = Host(place(context, data_dir, url), loaded, os.environ, keeper=notifier if notifier.listens else None)
        try:
            host.edge.open()
            supervisor = Supervisor(
                host.runners, lambda: host.reload(load(config, os.environ, strict=strict)), host.clock, notifier
            )
            host.watched_by(supervisor)
            look_seldom()
            source = loaded.path or "none, the shipped defaults"
            if not host.place.is_local and not loaded.config.store.url:
                logging.warning(
                    "store.url is not set: with several daemons each keeps the rows of its own partitions only, in %s; name one "
                    "folder or bucket for all of them (docs/fleet.md)",
                    host.folder,
                )
            logging.info("smart-tuner listens in %s (configuration: %s)", host.folder, source)
            return supervisor.run(inbox)
        finally:
            host.close()
