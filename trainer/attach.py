"""attach(): two lines connect a training job. The only file of the training process that reads the environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..bus.places import find_place, spool_folder, state_home
from ..core.clock import SystemClock
from ..core.errors import SmartTunerError
from ..core.events import RUN_NAME, Goal
from ..core.intent import LARGEST_LR
from ..core.ulid import ulid
from .attachment import Attachment
from .checkpoints import MIN_FREE_BYTES, Limits, Parts
from .control import Answered
from .opening import open_attachment
from .raised import described, let_through
from .ranks import find_seat
from .terms import Terms
from .values import number_of, plain, step_of
from .voice import Voice

ALLOWED = ("lr", "checkpoint", "restore", "prune")
KAFKA = "SMART_TUNER__BUS__KAFKA__"
MODES = ("act", "observe", "disabled")


def attach(  # noqa: PLR0913  # the interface: every argument optional, each by name
    name: str | None = None,
    *,
    optimizer: Any = None,
    model: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    monitor: str | None = None,
    goal: Goal | None = None,
    checkpoint: Callable[[str], object] | str | os.PathLike[str] | None = None,
    restore: Callable[[str], object] | None = None,
    policies: Mapping[str, Mapping[str, Any]] | None = None,
    group: str | None = None,
    tags: Mapping[str, Any] | None = None,
    config: Any = None,
    on_decision: Callable[[Answered], object] | None = None,
    resume_from_step: int | None = None,
    total_steps: int | None = None,
    mode: str | None = "act",
    allow: Iterable[str] | None = ALLOWED,
    best_interval_s: float = 0.0,
    min_lr: float = 0.0,
    max_bytes: int | None = None,
    min_free_bytes: int = MIN_FREE_BYTES,
    data_dir: str | os.PathLike[str] | None = None,
    bus: str | None = None,
) -> Attachment:
    """Attaches this process to Smart Tuner. Never raises: where something is missing it says so and the training goes on.

    `name` is the run's (default: the script's and a random suffix). `monitor` and `goal` ("min" or "max") say what is
    judged; with `model` too, the best weights are kept. `checkpoint` and `restore` are functions of a path, in place of
    the built-in save, or `checkpoint` a folder for it; `max_bytes` is what the run's checkpoints may take together,
    `min_free_bytes` what stays free on their disk. `allow` is what a daemon may change, `mode="observe"` nothing.
    `best_interval_s` is the least time between two copies of best weights, `min_lr` what no scaled learning rate falls
    below. The environment wins: SMART_TUNER_MODE, SMART_TUNER_RUN; SMART_TUNER_DATA_DIR and SMART_TUNER_BUS stand in
    where `data_dir` and `bus` are left out.
    """
    voice, clock = Voice(), SystemClock()
    attempt = ulid(clock.now())
    wanted, run = "act", "unnamed"
    try:
        environ = os.environ
        wanted = _mode(environ.get("SMART_TUNER_MODE") or ("act" if mode is None else mode), voice)
        seat = find_seat(environ)
        run = _name(environ.get("SMART_TUNER_RUN") or name, seat.suffix(attempt), voice)
        if wanted == "disabled":
            return Attachment(run, attempt, "disabled", voice, clock)
        place = find_place(environ, data_dir, bus)
        own = state_home(environ)
        save = checkpoint if callable(checkpoint) else None
        terms = Terms(
            run=run,
            attempt=attempt,
            place=place,
            spools=spool_folder(environ),
            checkpoints=own if place.of_system else place.folder,
            mode="observe" if wanted == "observe" else "act",
            allow=_allow(allow, voice),
            group=_text(group),
            monitor=_text(monitor),
            goal=_goal(goal, voice),
            policies=_named("policies", policies, voice),
            tags=_named("tags", tags, voice),
            config=_config(config),
            resume_from_step=_whole("resume_from_step", resume_from_step, voice),
            total_steps=_whole("total_steps", total_steps, voice),
            seat=seat,
            best_interval_s=float(best_interval_s),
            min_lr=_floor(min_lr, voice),
            limits=_limits(max_bytes, min_free_bytes, voice),
            own_folder=None if save or checkpoint is None else Path(os.path.abspath(checkpoint)),  # type: ignore[arg-type]
            script=_script(),
            on_decision=on_decision,
            kafka={name[len(KAFKA) :].lower(): value for name, value in environ.items() if name.startswith(KAFKA)},
        )
        return open_attachment(terms, Parts(model, optimizer, scheduler, scaler, save, restore), voice, clock)
    except SmartTunerError as error:
        let_through(error)
        voice.say(f"run {run} is not attached: {error}\n    the training goes on without")
    except Exception as error:  # noqa: BLE001  # whatever it is, it does not stop a training
        let_through(error)
        voice.say(f"run {run} is not attached: {described(error)}; the training goes on without")
    return Attachment(run, attempt, wanted, voice, clock)


def _mode(said: str, voice: Voice) -> str:
    """An unknown mode is the strictest that still watches."""
    if said in MODES:
        return said
    voice.say(f"mode {said!r} is none of {', '.join(MODES)}: observe is taken")
    return "observe"


def _name(said: Any, suffix: str, voice: Voice) -> str:
    """A valid run name: what was said, what can be made of it, or the script's and `suffix`."""
    if isinstance(said, str) and RUN_NAME.fullmatch(said):
        return said
    made = re.sub(r"[^A-Za-z0-9._/-]+", "-", "" if said is None else str(said)).lstrip("-._/")[:128]
    if not made:
        stem = os.path.splitext(os.path.basename(_script()))[0]
        made = (re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("-._")[:100] or "python") + "-" + suffix
    if said is not None:
        voice.say(f"{said!r} cannot be a run's name (letters, digits and ._/-, at most 128): it is called {made}")
    return made


def _allow(said: Iterable[str] | None, voice: Voice) -> tuple[str, ...]:
    if said is None:
        return ALLOWED
    named = (said,) if isinstance(said, str) else tuple(said)
    for word in named:
        if word not in ALLOWED:
            voice.say(f"allow= knows {', '.join(ALLOWED)}, not {word!r}")
    return tuple(word for word in ALLOWED if word in named)


def _goal(said: Any, voice: Voice) -> Goal | None:
    if said is None or said == "min" or said == "max":
        goal: Goal | None = said
        return goal
    voice.say(f"goal= is 'min' or 'max', not {said!r}: the daemon's configuration decides")
    return None


def _whole(name: str, said: Any, voice: Voice) -> int | None:
    whole = None if said is None else step_of(said)
    if said is not None and whole is None:
        voice.say(f"{name}={said!r} is no whole number: it is left out")
    return whole


def _limits(most: Any, least_free: Any, voice: Voice) -> Limits:
    """Bytes; what is no count is left out, and said."""
    free = _whole("min_free_bytes", least_free, voice)
    return Limits(_whole("max_bytes", most, voice), MIN_FREE_BYTES if free is None or free < 0 else free)


def _floor(said: Any, voice: Voice) -> float:
    """A learning rate that none falls below; what is none is 0, and said."""
    number = number_of(said)
    if number is not None and 0.0 <= number <= LARGEST_LR:
        return number
    voice.say(f"min_lr={said!r} is no learning rate: it is left out")
    return 0.0


def _text(said: Any) -> str | None:
    return None if said is None else str(said)[:256] or None


def _named(argument: str, said: Any, voice: Voice) -> dict[str, Any]:
    """A mapping; whatever else was given is left out and said, for the metrics matter more than what goes with them."""
    if said is None:
        return {}
    if isinstance(said, Mapping):
        tree = plain(said)
        return tree if isinstance(tree, dict) else {}
    voice.say(f"{argument}= is a dict of names, not {type(said).__name__}: it is left out")
    return {}


def _config(said: Any) -> dict[str, Any]:
    """A mapping, an argparse.Namespace, a dataclass: whatever has named fields."""
    if said is None:
        return {}
    named = said if isinstance(said, Mapping) else getattr(said, "__dict__", {"config": said})
    tree = plain(named)
    return tree if isinstance(tree, dict) else {"config": tree}


def _script() -> str:
    """The script that runs; empty in an interpreter that was started without one."""
    return sys.argv[0] if sys.argv and sys.argv[0] not in ("-c", "-m") else ""
