"""Where the command `smart-tuner` begins. The base install is what a training needs; the command line is an extra."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line, or says what to install for it."""
    try:
        from .main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("typer", "rich"):
            raise
        sys.exit(
            f"smart-tuner: {error.name} is not installed: this is the base install, which holds what a training job needs\n"
            '    hint: pip install "smart-tuner[daemon]", or "smart-tuner[read]" for the reading commands alone'
        )
    run()
