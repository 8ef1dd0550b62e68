"""Smart Tuner: training jobs are watched, judged and steered while they run.

`import smarttuner` loads neither torch nor numpy; the parts are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .consumers.frames import read_decisions, read_metrics, read_runs
    from .trainer.attach import attach
    from .trainer.attachment import Attachment

__version__ = "0.1.0"
__all__ = ["Attachment", "__version__", "attach", "read_decisions", "read_metrics", "read_runs"]

_PARTS = {
    "attach": "trainer.attach",
    "Attachment": "trainer.attachment",
    "read_metrics": "consumers.frames",
    "read_runs": "consumers.frames",
    "read_decisions": "consumers.frames",
}


def __getattr__(name: str) -> Any:
    """The public parts, each loaded when it is first asked for."""
    if name not in _PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    part = getattr(import_module(f".{_PARTS[name]}", __name__), name)
    globals()[name] = part
    return part


def __dir__() -> list[str]:
    return sorted(__all__)
