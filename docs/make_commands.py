"""Writes docs/commands.md from the commands themselves: `.venv/bin/python docs/make_commands.py`."""

import pathlib
import textwrap
from typing import Any

import typer
from smarttuner.daemon.cli.main import app

PAGE = pathlib.Path(__file__).parent / "commands.md"
HEAD = """# Commands

Data goes to stdout, messages to stderr; `--json` gives one object, or one a line for lists. Options given before the command
(`smart-tuner --data-dir DIR runs`) hold for it too. `smart-tuner --install-completion` sets up completion for your shell.

Exit codes: 0 ok, 1 error, 2 usage, 3 configuration, 4 unreachable, 10 gate failed, 11 undecidable, 12 refused, 130 interrupted.

This page is made from the commands themselves (`python docs/make_commands.py`).
"""


def describe(path: str, command: Any) -> str:
    """One command: its usage, what it does, its arguments and options, an example."""
    lines = [f"## {path}", "", textwrap.dedent(command.help or "").strip(), ""]
    rows = []
    for one in command.params:
        if one.name == "help":
            continue
        names = (
            ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
            if one.opts[0].startswith("-")
            else f"`{one.name.upper()}`"
        )
        rows.append(f"| {names} | {(getattr(one, 'help', None) or '').replace('|', chr(92) + '|')} |")
    if rows:
        lines += ["| option | |", "|---|---|", *rows, ""]
    if command.epilog:
        lines += [f"{command.epilog.replace('Example: ', 'Example: `', 1)}`", ""]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    found: list[str] = []

    def walk(path: str, command: Any) -> None:
        found.append(describe(path, command))
        for name, child in sorted(getattr(command, "commands", {}).items()):
            walk(f"{path} {name}", child)

    walk("smart-tuner", typer.main.get_command(app))
    return HEAD + "\n" + "\n".join(found)


if __name__ == "__main__":
    PAGE.write_text(page())
