"""`smart-tuner kafka check`: is everything there that a fleet needs, and if not, which one thing is to be done."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from ...core.errors import SmartTunerError, Unavailable, UsageError
from .options import BusUrl, ConfigFile, Json, given

if TYPE_CHECKING:
    from ...bus.kafka_settings import KafkaSettings

commands = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)


def register(app: typer.Typer) -> None:
    """Adds `kafka`."""
    app.add_typer(
        commands,
        name="kafka",
        help="Looks at the Kafka that is the bus.",
        epilog="Example: smart-tuner --bus kafka://broker:9092 kafka check",
    )


@commands.callback()
def kafka() -> None:
    """Looks at the Kafka that is the bus."""


@commands.command(epilog="Example: smart-tuner --bus kafka://broker:9092 kafka check --print")
def check(
    context: typer.Context,
    print_commands: Annotated[
        bool, typer.Option("--print", help="Print the commands that make the topics and give the permissions; asks no broker.")
    ] = False,
    principal: Annotated[
        str, typer.Option(metavar="USER", help="Who gets the permissions with --print, as User:name; else who we connect as.")
    ] = "",
    timeout: Annotated[
        float, typer.Option(min=0.1, max=60, metavar="SECONDS", help="How long all of it may take; more for a broker far away.")
    ] = 4.0,
    bus: BusUrl = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Name, tcp, tls, versions, sasl, brokers, topics and permissions, a line each, within 5 seconds; changes nothing.

    Exits 0 when a daemon can work with it, 4 when not, 3 when the options themselves are wrong.
    """
    settings = wanted(context, bus, config)
    if print_commands:
        show(settings, principal, as_json)
        return
    if find_spec("kafka") is None:
        raise SmartTunerError("kafka-python is not installed", 'pip install "smart-tuner[kafka]"')
    from ...bus.kafka_address import servers_of
    from ...bus.kafka_check import Plan, check
    from ...bus.kafka_settings import faults, needs
    from ...core.clock import SystemClock

    plan = Plan(
        servers_of(f"kafka://{settings.bootstrap}"),
        settings.client,
        list(needs(settings).values()),
        faults,
        settings.group("judge"),
        settings.create_topics,
        settings.replication_factor,
    )
    failed = False
    for step in check(plan, SystemClock(), timeout):
        failed = failed or step.state == "failed"
        if as_json:
            print(json.dumps(step._asdict()), flush=True)
        else:
            hint = f"\n        hint: {step.hint}" if step.hint else ""
            print(f"{step.state:8}{step.name}: {step.what}{hint}", flush=True)
    if failed:
        raise typer.Exit(Unavailable.exit_code)


def wanted(context: typer.Context, bus: str | None, config: object) -> KafkaSettings:
    """What the configuration, the environment and the options say about the bus. UsageError where it is not Kafka."""
    from ..config_place import none_stated

    root = given(context)
    stated = config or root.config
    url = bus or root.bus or os.environ.get("SMART_TUNER_BUS") or ""
    if url.startswith("kafka:") and none_stated(str(stated) if stated else None, os.environ):
        from ...bus.kafka_address import bootstrap_of
        from ...bus.kafka_settings import KafkaSettings

        return KafkaSettings(bootstrap_of(url))  # a third of the command's time is reading a configuration
    from ..config import load
    from ..config_kafka import settings_of

    loaded = load(str(stated) if stated else None, os.environ)
    url = bus or root.bus or os.environ.get("SMART_TUNER_BUS") or loaded.config.bus.url
    if not url.startswith("kafka:"):
        raise UsageError(
            f"the bus is {url}, not Kafka", "smart-tuner --bus kafka://host:9092 kafka check, or bus.url in the configuration"
        )
    return settings_of(loaded.config.bus.kafka, url, loaded.config.bus.retention_s)


def show(settings: KafkaSettings, principal: str, as_json: bool) -> None:
    """The commands, under what they are for."""
    from ...bus.kafka_commands import commands as made
    from ...bus.kafka_commands import principal_of
    from ...bus.kafka_options import read_options

    security = read_options(settings.client, settings.bootstrap).security
    admin_file = "admin.properties" if security.protocol != "PLAINTEXT" else ""
    purpose = ""
    for one in made(settings, principal or principal_of(security), admin_file):
        if as_json:
            print(json.dumps(one._asdict()))
            continue
        if one.purpose != purpose:
            purpose = one.purpose
            print(f"# {purpose}")
        print(one.line)
