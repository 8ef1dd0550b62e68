"""A real dataset offline: espeak-ng, loaded into this process, speaks sentences into wavs and metadata.csv (LJSpeech's form)."""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import Unavailable, UsageError
from .grammar import sentences
from .wav import write_wav

SYNCHRONOUS, UTF8, CHARACTERS = 2, 1, 1
ABOUT = "synth.json"
FORM = 2
RATE_PARAMETER, WORDS_PER_MINUTE = 1, 115  # slow enough that a decoder step lies inside one letter
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Voice:
    """espeak-ng in this process. The same text spoken twice may differ, so what matters is the order."""

    def __init__(self, name: str = "en-us") -> None:
        try:
            espeakng_loader = import_module("espeakng_loader")
        except ModuleNotFoundError:
            raise Unavailable(
                "speaking a dataset needs espeakng-loader, which is not installed",
                'install it: pip install "smart-tuner[tacotron2]"',
            ) from None
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        if self.rate <= 0:
            raise Unavailable("espeak-ng does not start", "install espeakng-loader anew")
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise UsageError(f"espeak-ng has no voice {name!r}", "take en-us")
        self._library.espeak_SetParameter(RATE_PARAMETER, WORDS_PER_MINUTE, 0)
        self._heard: list[Tensor] = []
        self._callback = _Callback(self._hear)  # kept here: C holds no reference to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _hear(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: int | None) -> int:
        if count > 0 and samples:
            raw = ctypes.string_at(samples, 2 * count)
            self._heard.append(torch.frombuffer(bytearray(raw), dtype=torch.int16).float() / 32768)
        return 0

    def say(self, text: str) -> Tensor:
        """Samples (L) of `text`, without the silence at both ends."""
        self._heard = []
        raw = text.encode()
        self._library.espeak_Synth(raw, ctypes.c_size_t(len(raw) + 1), 0, CHARACTERS, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        return trimmed(torch.cat(self._heard) if self._heard else torch.zeros(0), self.rate)


def trimmed(samples: Tensor, rate: int, margin_s: float = 0.03) -> Tensor:
    """Without silence (below -50 dB of full scale) at both ends, but for a margin."""
    loud = (samples.abs() > 0.003).nonzero()
    if not len(loud):
        return samples
    margin = round(margin_s * rate)
    return samples[max(0, int(loud[0]) - margin) : int(loud[-1]) + margin]


def synthesise(folder: Path, count: int, seed: int, told: Callable[[int, int], None] | None = None) -> bool:
    """A dataset of `count` utterances in `folder`; False where the same one lies there already, UsageError where something
    else does. It appears whole or not at all."""
    texts = sentences(count, seed)
    if len(texts) < count:
        raise UsageError(f"the grammar has only {len(texts)} sentences, not {count}", f"ask for {len(texts)} or fewer")
    about = {"form": FORM, "count": count, "seed": seed, "texts": hashlib.sha256("\n".join(texts).encode()).hexdigest()}
    if _is_there(folder, about):
        return False
    voice = Voice()
    hidden = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        (hidden / "wavs").mkdir(parents=True)
        lines, digest = [], hashlib.sha256()
        for number, text in enumerate(texts):
            name = f"SYN-{number + 1:05d}"
            write_wav(hidden / "wavs" / f"{name}.wav", voice.say(text), voice.rate)
            digest.update((hidden / "wavs" / f"{name}.wav").read_bytes())
            lines.append(f"{name}|{text}|{text}\n")
            if told is not None:
                told(number + 1, count)
        (hidden / "metadata.csv").write_text("".join(lines))
        digest.update("".join(lines).encode())
        (hidden / ABOUT).write_text(json.dumps(about | {"sha256": digest.hexdigest(), "sample_rate": voice.rate}, indent=1) + "\n")
        return _placed(hidden, folder, about)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _placed(hidden: Path, folder: Path, about: dict[str, object]) -> bool:
    """Gives the folder its name; False where another process was faster with the same dataset."""
    try:
        if folder.is_dir():
            folder.rmdir()  # only an empty one goes
        hidden.rename(folder)
    except OSError:
        if _is_there(folder, about):
            return False
        raise
    return True


def _is_there(folder: Path, about: dict[str, object]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        stored = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError):
        raise UsageError(f"{folder} is not empty and holds no synthetic dataset", "name a folder that does not exist yet") from None
    if {name: stored.get(name) for name in about} != about:
        raise UsageError(
            f"{folder} holds another synthetic dataset ({stored.get('count')} utterances, seed {stored.get('seed')})",
            "name another folder, or remove that one",
        )
    return True
