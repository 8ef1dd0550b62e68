"""`smart-tuner config`: check a configuration, show what is in force, write one to start from, publish its schema."""

from __future__ import annotations

import json
import os
import pathlib
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ...core.errors import UsageError
from .options import ConfigFile, DataDir, given, place, store

if TYPE_CHECKING:
    from ...core.errors import ConfigError
    from ..config import Loaded

commands = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)
File = Annotated[
    str | None,
    typer.Argument(help="The file; without it SMART_TUNER_CONFIG, the person's own file, the system's.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Strict = Annotated[bool, typer.Option("--strict", help="What a missing variable would turn off is an error.")]


def register(app: typer.Typer) -> None:
    """Adds `config` to the command line."""
    app.add_typer(
        commands,
        name="config",
        help="Check, show, write and describe the configuration.",
        epilog="Example: smart-tuner config init",
    )


def _load(file: str | None, as_json: bool, strict: bool = False) -> Loaded:
    """The configuration, its warnings told; ends with exit code 3 where it is broken."""
    from ...core.errors import ConfigError
    from ..config import load

    try:
        loaded = load(file, os.environ, strict)
    except ConfigError as error:
        _refuse(error, as_json)
    for warning in loaded.warnings:
        typer.echo(f"smart-tuner: warning: {warning}", err=True)
    return loaded


def _refuse(error: ConfigError, as_json: bool) -> NoReturn:
    problems = getattr(error, "problems", ())
    if as_json:
        plain = [one.plain() for one in problems]
        plain = plain or [{"place": "", "path": "", "message": error.message, "hint": error.hint}]
        typer.echo(json.dumps({"valid": False, "problems": plain}, ensure_ascii=False))
    for problem in problems or (error,):
        typer.echo(f"smart-tuner: {problem}", err=True)
    raise typer.Exit(error.exit_code)


@commands.command(epilog="Example: smart-tuner config validate configs/enhanced-smart-tuner.yaml")
def validate(file: File = None, strict: Strict = False, as_json: Json = False) -> None:
    """Says every mistake at once, or that there is none, and which keys do not act yet."""
    loaded = _load(file, as_json, strict)
    if as_json:
        missing = [{"path": one.path, "keys": one.keys, "missing": one.what} for one in loaded.missing]
        said = {"valid": True, "path": str(loaded.path or ""), "warnings": loaded.warnings, "missing": missing}
        typer.echo(json.dumps(said, ensure_ascii=False))
        return
    typer.echo(f"{loaded.path}: valid" if loaded.path else "no configuration file: the defaults apply")
    if loaded.missing:
        typer.echo("Accepted, without effect so far:")
    for one in loaded.missing:
        typer.echo(f"  {one}")


@commands.command(epilog="Example: smart-tuner config show | less")
def show(file: File = None, as_json: Json = False) -> None:
    """Shows the configuration in force: secrets masked, and behind each value where it came from (nothing: the default)."""
    from ..config_show import lines, masked

    loaded = _load(file, as_json)
    if as_json:
        places = {".".join(map(str, path)): place for path, place in loaded.places.items()}
        said = {"path": str(loaded.path or ""), "config": masked(loaded.config), "places": places}
        typer.echo(json.dumps(said, ensure_ascii=False))
        return
    for line in lines(masked(loaded.config), loaded.places):
        typer.echo(line)


@commands.command(epilog="Example: smart-tuner config explain my-run")
def explain(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run, live or stored; without it one that the options describe.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The name of a run that is not there yet.")] = None,
    user: Annotated[str, typer.Option(metavar="USER", help="Its user.")] = "",
    group: Annotated[str | None, typer.Option(metavar="GROUP", help="Its group.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="K=V", help="One of its tags; may be repeated.")] = None,
    source: Annotated[str, typer.Option(metavar="SOURCE", help="What tells of it.")] = "sdk",
    config: ConfigFile = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Says which entry of watch holds for a run, and which line each key comes from. Of a live run the daemon says it."""
    from ..explain import lines
    from .explaining import imagined, known

    file = config or given(context).config
    if run is not None and name is None:
        told = known(place(context, data_dir), store(context, data_dir), run, lambda: _load(str(file) if file else None, as_json))
    elif name is not None and run is None:
        told = imagined(_load(str(file) if file else None, as_json), name, user, group, tag or [], source)
    else:
        raise UsageError("which run?", "give the name of a run, or describe one: --name NAME --user USER --tag K=V")
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    for line in lines(told):
        typer.echo(line)


@commands.command(epilog="Example: smart-tuner config schema > config.schema.json")
def schema() -> None:
    """Prints the JSON Schema that editors check and complete a configuration with."""
    from ..config_docs import schema_text

    typer.echo(schema_text(), nl=False)


@commands.command(epilog="Example: smart-tuner config init mine.yaml")
def init(
    path: Annotated[
        pathlib.Path | None, typer.Argument(help="Where to; without it the person's own file.", show_default=False)
    ] = None,
) -> None:
    """Writes a small commented configuration to start from. Never over a file that is there."""
    from importlib.resources import files

    home = os.environ.get("XDG_CONFIG_HOME") or str(pathlib.Path.home() / ".config")
    target = path or pathlib.Path(home) / "smart-tuner" / "config.yaml"
    text = files("smarttuner").joinpath("configs", "start.yaml").read_bytes()
    said = _write_new(target, text)
    if said:
        typer.echo(f"smart-tuner: {said}", err=True)
        raise typer.Exit(1)
    typer.echo(str(target))
    typer.echo(f"smart-tuner: wrote {target}; check it with: smart-tuner config validate {target}", err=True)


def _write_new(target: pathlib.Path, text: bytes) -> str:
    """Writes beside, then links: the file is there whole or not at all, and none is replaced. What went wrong, or ""."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(text)
        try:
            os.link(beside, target)
        finally:
            beside.unlink()
    except FileExistsError:
        return f"{target}: is there already\n    hint: give another path, or remove it first"
    except OSError as error:
        return f"{target}: {error.strerror}\n    hint: check the path and who may write there"
    return ""
