"""What the reading commands share: whether a run is stored, and what to say when it is not."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import SmartTunerError
from ...core.registry import did_you_mean


def known_run(folder: Path | str, run: str) -> None:
    """SmartTunerError with the nearest name for a run that nothing is stored of."""
    from ...consumers.reading import run_names

    names = run_names(folder)
    if run not in names:
        hint = did_you_mean(run, names) if names else "nothing is stored there yet; name another with --data-dir"
        raise SmartTunerError(f"no run is called {run!r} in {folder}", hint)
