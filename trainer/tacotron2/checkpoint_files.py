"""Checkpoints of a training: a folder `step-N` each, packed, with its hash, that appears whole or not at all.

A kill leaves hidden folders at most, which the next start clears away. The training waits only for the copy of the state.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import shutil
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Any

import msgspec

from ...core.errors import CorruptData, Unavailable, UsageError
from ..checkpoints import sync
from ..parts import on_cpu
from .settings import Compression, Saving

ENDINGS: dict[Compression, str] = {"none": "", "gzip": ".gz", "zstd": ".zst"}
GZIP_LEVEL = 1  # weights hardly shrink further, and level 6 takes six times as long
BY_ORDER = "tacotron2"
"""The folder inside a checkpoint that the daemon asked for."""
FILE, ABOUT, BEST, LOCK = "checkpoint.pt", "about.json", "best.json", "lock"


class About(msgspec.Struct):
    """What `about.json` says; `value` is the monitored series at that step, None where it was not measured."""

    step: int
    sha256: str
    bytes: int
    compression: Compression
    value: float | None = None


def pack(state: dict[str, Any], compression: Compression) -> bytes:
    """A state as the bytes of one file, as gzip and zstd read it."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    raw = buffer.getvalue()
    if compression == "gzip":
        return gzip.compress(raw, GZIP_LEVEL, mtime=0)
    if compression == "zstd":
        packed: bytes = _zstd().ZstdCompressor(level=3).compress(raw)
        return packed
    return raw


def unpack(raw: bytes, compression: Compression) -> dict[str, Any]:
    """A state from those bytes; nothing in them is run."""
    import torch

    if compression == "gzip":
        raw = gzip.decompress(raw)
    elif compression == "zstd":
        raw = _zstd().ZstdDecompressor().decompress(raw)
    state: dict[str, Any] = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    return state


def _zstd() -> Any:
    try:
        return import_module("zstandard")
    except ModuleNotFoundError:
        raise Unavailable(
            "compression: zstd needs zstandard, which is not installed",
            'install it: pip install "smart-tuner[tacotron2]", or write compression: gzip',
        ) from None


class CheckpointFolder:
    """The checkpoints of one training below `folder`."""

    def __init__(self, folder: Path, saving: Saving) -> None:
        self.folder, self.saving = folder, saving
        self._lock: int | None = None

    def open(self) -> None:
        """Takes the folder for this process and clears away what a kill left; UsageError where another one has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise UsageError(f"{self.folder}: another training writes there", "name another folder with --out") from None
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Gives the folder back."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def write(self, step: int, state: dict[str, Any], value: float | None, best: bool) -> Path:
        """Durable on return; then what is too much is removed."""
        path = write_folder(self.folder / f"step-{step}", step, state, self.saving.compression, value)
        if best:
            _replace(self.folder / BEST, msgspec.json.encode({"step": step, "value": value}))
        self._prune()
        return path

    def best(self) -> int | None:
        """The step of the best one; None where none is known."""
        try:
            step: int = msgspec.json.decode((self.folder / BEST).read_bytes(), type=dict[str, Any])["step"]
        except (OSError, msgspec.DecodeError, KeyError):
            return None
        return step

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def latest(self, told: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole one; a damaged one is told of and the one before it is taken. None where there is none at all."""
        steps = self.steps()
        for step in reversed(steps):
            path = self.folder / f"step-{step}"
            try:
                return path, read_folder(path)
            except CorruptData as error:
                told(f"{error.message}; the one before it is taken")
        if steps:
            raise Unavailable(f"no checkpoint in {self.folder} is whole", "start anew with another --out")
        return None

    def _prune(self) -> None:
        best = self.best()
        for step in self.steps()[: -self.saving.keep]:
            if step != best:
                hidden = self.folder / f".step-{step}.old"
                (self.folder / f"step-{step}").rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)


def write_folder(path: Path, step: int, state: dict[str, Any], compression: Compression, value: float | None = None) -> Path:
    """One checkpoint at `path`, durable on return."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        raw = pack(state, compression)
        hidden.mkdir(parents=True)
        about = About(step, hashlib.sha256(raw).hexdigest(), len(raw), compression, value)
        _durable(hidden / (FILE + ENDINGS[compression]), raw)
        _durable(hidden / ABOUT, msgspec.json.encode(about) + b"\n")
        sync(hidden)
        if path.exists():
            old = path.with_name(f".{path.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        hidden.rename(path)
        sync(path.parent)
        shutil.rmtree(path.with_name(f".{path.name}.old"), ignore_errors=True)
    except OSError as error:
        raise Unavailable(f"no checkpoint at {path}: {error.strerror}", "free some space, or write access there") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return path


def read_folder(path: Path) -> dict[str, Any]:
    """The state of one checkpoint; CorruptData where its bytes are not the ones that were written."""
    try:
        about = msgspec.json.decode((path / ABOUT).read_bytes(), type=About)
        raw = (path / (FILE + ENDINGS[about.compression])).read_bytes()
    except (OSError, msgspec.DecodeError) as error:
        raise CorruptData(f"{path} is no whole checkpoint: {error}", "take another one") from error
    if len(raw) != about.bytes or hashlib.sha256(raw).hexdigest() != about.sha256:
        raise CorruptData(f"{path} is damaged: its bytes are not the ones that were written", "take another one")
    return unpack(raw, about.compression)


def found_at(place: Path, told: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that a person means: a step's folder, the file in it, or a training's folder (its best, else its last)."""
    if (place / BY_ORDER / ABOUT).exists():  # the SDK's folder around it has an about.json of its own
        return place / BY_ORDER, read_folder(place / BY_ORDER)
    if (place / ABOUT).exists():
        return place, read_folder(place)
    if place.is_file() and (place.parent / ABOUT).exists():
        return place.parent, read_folder(place.parent)
    for folder in (place / "checkpoints", place):
        files = CheckpointFolder(folder, Saving())
        best = files.best()
        if best is not None and (folder / f"step-{best}").exists():
            try:
                return folder / f"step-{best}", read_folder(folder / f"step-{best}")
            except CorruptData as error:
                told(f"{error.message}; the newest is taken")
        if (latest := files.latest(told)) is not None:
            return latest
    raise UsageError(f"{place}: there is no checkpoint", "name a folder that smart-tuner train wrote, or one of its step-N")


class Saver:
    """Writes checkpoints beside the training: one is being written, one may wait, a third waits for room."""

    def __init__(self, files: CheckpointFolder, told: Callable[[str], None]) -> None:
        self._files, self._told = files, told
        self._waiting: Queue[tuple[int, dict[str, Any], float | None, bool] | None] = Queue(maxsize=1)
        self._thread: threading.Thread | None = None
        self.failures = 0

    def save(self, step: int, state: dict[str, Any], value: float | None = None, best: bool = False) -> None:
        """Copies the state, then returns; with `beside` off returns once it is durable. A failure is told, not raised."""
        if not self._files.saving.beside:
            self._write(step, state, value, best)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
            self._thread.start()
        self._waiting.put((step, on_cpu(state), value, best))

    def close(self) -> None:
        """Returns once everything is durable."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (one := self._waiting.get()) is not None:
            self._write(*one)

    def _write(self, step: int, state: dict[str, Any], value: float | None, best: bool) -> None:
        try:
            self._files.write(step, state, value, best)
        except (Unavailable, OSError) as error:
            self.failures += 1
            self._told(f"step {step}: {error}")


def _durable(path: Path, raw: bytes) -> None:
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, raw: bytes) -> None:
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    _durable(hidden, raw)
    hidden.replace(path)
    sync(path.parent)
