"""`smart-tuner`: the command line. One command a file; heavy libraries are imported inside the commands."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from ... import __version__
from ...core.errors import SmartTunerError
from .options import BusUrl, ConfigFile, DataDir, Given

COMMANDS = (
    "demo",
    "daemon",
    "runs",
    "metrics",
    "decisions",
    "plot",
    "decide",
    "switches",
    "status",
    "config",
    "doctor",
    "kafka",
    "dead_letters",
    "replay",
    "train",
    "synthesize",
    "dataset",
)

app = typer.Typer(
    name="smart-tuner",
    help="Watches training jobs, judges their metrics, and steers them live.",
    epilog="Example: smart-tuner demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"smart-tuner {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    data_dir: DataDir = None,
    bus: BusUrl = None,
    config: ConfigFile = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """The options given before a command hold for it unless it is given its own."""
    context.obj = Given(data_dir, bus, config)


for _name in COMMANDS:
    import_module(f".{_name}", __package__).register(app)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and ends the process with its exit code; what went wrong is said on stderr with a hint."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Runs a command; its exit code (0 ok, 1 error, 2 usage, 3 configuration, 4 unreachable, 12 refused, 130 interrupted)."""
    try:
        command: Any = typer.main.get_command(app)
        code = command.main(args=arguments, prog_name="smart-tuner", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SmartTunerError as error:
        return _said(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except typer.Exit as end:
        return end.exit_code
    except ModuleNotFoundError as error:
        return _said(_missing(error))
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _said(SmartTunerError(what, "look at the path and at who may read and write there; --data-dir names another"))
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return int(getattr(error, "exit_code", 1))


def _missing(error: ModuleNotFoundError) -> SmartTunerError:
    if (error.name or "").startswith("smarttuner"):
        raise error
    return SmartTunerError(
        f"this command needs {error.name}, which is not installed", 'install it: pip install "smart-tuner[daemon]"'
    )


def _said(error: SmartTunerError) -> int:
    sys.stdout.flush()
    message = str(error)
    print(message if message.startswith("smart-tuner:") else f"smart-tuner: {message}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    main()
