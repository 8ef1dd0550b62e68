"""Checkpoints on command: a folder `step-N` each, that appears whole or not at all.

It holds `checkpoint.pt`, written by the user's own function or by the built-in save, and `about.json`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..core.clock import Clock, rfc3339
from ..core.errors import Forbidden, Unavailable
from .hidden import hidden_name, remove, sweep_hidden
from .parts import load_into, random_state, size_bytes, state_of
from .raised import described

FILE = "checkpoint.pt"
MIN_FREE_BYTES = 256 << 20
FORM = 1


class About(msgspec.Struct):
    """What `about.json` says of a checkpoint; `time` is RFC 3339."""

    run: str
    attempt: str
    step: int
    time: str
    saved_by: str
    bytes: int


@dataclass
class Parts:
    """What the job handed over, each None where it did not. `save` and `load` are the user's functions of a path."""

    model: Any = None
    optimizer: Any = None
    scheduler: Any = None
    scaler: Any = None
    save: Callable[[str], object] | None = None
    load: Callable[[str], object] | None = None

    def take(self, **given: Any) -> None:
        """Parts that come later, by name; None is what stays as it is."""
        for name, part in given.items():
            if part is not None:
                setattr(self, name, part)

    def stateful(self) -> dict[str, Any]:
        """The parts that have a state, by name."""
        named = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}
        return {name: part for name, part in named.items() if part is not None}


class Limits(NamedTuple):
    """What a run's checkpoints may take together (None: what there is), and what stays free on their disk."""

    max_bytes: int | None = None
    min_free_bytes: int = MIN_FREE_BYTES


@dataclass
class Checkpoints:
    """The checkpoints of one run in `folder`; Forbidden where one cannot be made, Unavailable where the disk fails."""

    folder: Path
    run: str
    attempt: str
    parts: Parts
    clock: Clock
    limits: Limits = field(default_factory=Limits)
    _last_bytes: int = field(default=0, init=False)

    def save(self, step: int) -> Path:
        """Saves now, durable on return; the folder of the new checkpoint."""
        if self.parts.save is None and self.parts.model is None and self.parts.optimizer is None:
            raise Forbidden("the job gave nothing to save", "pass model= and optimizer=, or checkpoint=, to attach")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep_hidden(self.folder, self.clock.now())
            self._check_room("a checkpoint", self._estimate())
            return self._save(step)
        except OSError as error:
            raise Unavailable(f"no checkpoint in {self.folder}: {error}", "free some space, or write access there") from error

    def load(self, which: str | int = "last") -> tuple[int, Path]:
        """Puts `last` or the checkpoint of a step back: weights, moments, scaler. The schedule, the learning rate and the
        random generators go on from where the job is. Returns its step and folder."""
        about, path = self.find(which)
        if self.parts.load is not None:
            self.parts.load(str(path / FILE))
            return about.step, path
        if about.saved_by != "smart-tuner":
            raise Forbidden(f"{path} was saved by the job's own function", "pass restore= to attach too")
        import torch

        saved = torch.load(path / FILE, map_location="cpu", weights_only=True)
        for name in ("model", "optimizer", "scaler"):
            part = self.parts.stateful().get(name)
            if part is not None and name in saved:
                load_into(part, saved[name])
        return about.step, path

    @property
    def brings_back(self) -> str:
        """What `load` puts back, in words."""
        if self.parts.load is not None:
            return "what restore= loads"
        return ", ".join(name for name in ("model", "optimizer", "scaler") if name in self.parts.stateful()) or "nothing"

    def find(self, which: str | int = "last") -> tuple[About, Path]:
        """The checkpoint of a step (the newest, were it saved twice) or the last one saved; Unavailable where there is none."""
        found = [(about, path) for about, path in self.listing() if which == "last" or about.step == which]
        if not found:
            steps = sorted({about.step for about, _ in self.listing()})
            there = "there are: " + ", ".join(map(str, steps[-10:])) if steps else "none has been saved"
            what = "checkpoint" if which == "last" else f"checkpoint of step {which}"
            raise Unavailable(f"no {what} in {self.folder}; {there}", "ask for a checkpoint first")
        return max(found, key=lambda one: (one[0].time, one[1].name))

    def listing(self) -> list[tuple[About, Path]]:
        """Every whole checkpoint of the run."""
        found = []
        for path in sorted(self.folder.glob("step-*")):
            try:
                about = msgspec.json.decode((path / "about.json").read_bytes(), type=About)
                if about.run == self.run:  # a folder of the job's own may hold several runs
                    found.append((about, path))
            except (OSError, msgspec.DecodeError):
                continue
        return found

    def _save(self, step: int) -> Path:
        hidden = self.folder / hidden_name(".step-", f"{step}.{self.attempt}")
        remove(hidden)
        hidden.mkdir()
        try:
            if self.parts.save is not None:
                self.parts.save(str(hidden / FILE))
                if not any(hidden.iterdir()):
                    raise Unavailable(
                        "checkpoint= wrote nothing to the path it was given", "save to that path, or below its folder"
                    )
            else:
                self._write(hidden / FILE, step)
            self._last_bytes = sum(path.stat().st_size for path in hidden.rglob("*") if path.is_file())
            about = About(
                self.run,
                self.attempt,
                step,
                rfc3339(self.clock.now()),
                "job" if self.parts.save is not None else "smart-tuner",
                self._last_bytes,
            )
            (hidden / "about.json").write_bytes(msgspec.json.encode(about))
            _sync_tree(hidden)
            final = self._free_name(step)
            hidden.rename(final)
        except BaseException:
            remove(hidden)
            raise
        sync(self.folder)
        return final

    def _write(self, path: Path, step: int) -> None:
        import torch

        state: dict[str, Any] = {name: state_of(part) for name, part in self.parts.stateful().items()}
        state |= {"form": FORM, "run": self.run, "attempt": self.attempt, "step": step, "random": random_state()}
        torch.save(state, path)
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # what torch refuses to read may be any class of a part's state
            raise Unavailable(
                f"what was saved cannot be read back: {described(error)}",
                "pass checkpoint= and restore= to attach, or leave the part out that holds it",
            ) from error

    def put_aside(self, state: Any, number: int) -> Path:
        """Writes best weights that memory has no room for; they are this process's, and go with it. Forbidden where the
        disk has no room either."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_room("the best weights", size_bytes(state))
        path = self.folder / hidden_name(".best-", f"{number}.{self.attempt}")
        try:
            torch.save(state, path)
        except BaseException:
            remove(path)
            raise
        return path

    def _estimate(self) -> int:
        """Bytes of the next checkpoint: what its tensors take, or what the last one took. 0 where nothing tells."""
        parts = self.parts.stateful()
        return max(self._last_bytes, sum(size_bytes(state_of(parts[name])) for name in ("model", "optimizer") if name in parts))

    def _check_room(self, what: str, need: int) -> None:
        need += need // 20
        free, least = shutil.disk_usage(self.folder).free, self.limits.min_free_bytes
        if need + least > free:
            raise Forbidden(
                f"{what} needs about {need / 1e6:.1f} MB and min_free_bytes keeps {least / 1e6:.1f} MB free, "
                f"{free / 1e6:.1f} MB are free in {self.folder}",
                "free some space there, or lower min_free_bytes",
            )
        most = self.limits.max_bytes
        if most is not None and (taken := self._taken()) + need > most:
            raise Forbidden(
                f"{what} needs about {need / 1e6:.1f} MB beside the {taken / 1e6:.1f} MB that are there, max_bytes allows "
                f"{most / 1e6:.1f} MB",
                f"remove old checkpoints from {self.folder}, or raise max_bytes",
            )

    def _taken(self) -> int:
        aside = sum(path.stat().st_size for path in self.folder.glob(".best-*") if path.is_file())
        return aside + sum(about.bytes for about, _ in self.listing())

    def _free_name(self, step: int) -> Path:
        final, again = self.folder / f"step-{step}", 1
        while final.exists():
            again += 1
            final = self.folder / f"step-{step}~{again}"
        return final


def run_folder(base: Path, run: str) -> Path:
    """Where a run's checkpoints lie: one folder, whatever slashes and dots its name has."""
    return base / "checkpoints" / run.replace("/", "~")


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
