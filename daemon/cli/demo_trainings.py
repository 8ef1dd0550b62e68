"""The trainings of `smart-tuner demo`: small real Tacotron 2 jobs, one from good settings and two from bad ones."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from ...core.errors import SmartTunerError

UTTERANCES = 120
GROUP = "demo"
SPEAKS = "good"
"""The training that says a sentence at its end, and of which a checkpoint is asked for."""
NEEDED = ("torch", "espeakng_loader", "visqol", "ai_edge_litert")
SIZES = {"encoder_embedding_dim": 64, "decoder_rnn_dim": 64, "reduction_factor": 5, "batch_size": 8}
SCHEDULE = {
    "warmup_steps": 20,
    "final_learning_rate": 0.1,
    "weight_decay": 1e-6,
    "grad_clip_thresh": 1,
    "guided_attention_weight": 1,
}
DROPOUTS = {"dropout_encoder": 0.1, "dropout_attention": 0.1, "dropout_decoder": 0.1, "dropout_postnet": 0.1, "dropout_prenet": 0.5}


@dataclass(frozen=True)
class Plan:
    """One training: its parameters over those that all of the demo have, which leave nothing to the file's search space."""

    name: str
    about: str
    steps: int
    parameters: Mapping[str, float] = field(default_factory=dict)

    def arguments(self, config: Path, speech: Path, folder: Path) -> list[str]:
        """Of `smart-tuner`."""
        spoken = self.steps if self.name == SPEAKS else 0
        chosen = {**SIZES, **SCHEDULE, **DROPOUTS, "synthesize_every": spoken, **self.parameters}
        options = ["--config", config, "--dataset", speech, "--name", self.name, "--out", folder / self.name]
        sets = [f"--set={name}={value}" for name, value in chosen.items()]
        return ["train", *map(str, options), "--group", GROUP, "--steps", str(self.steps), "--json", *sets]


def plans(steps: int) -> tuple[Plan, ...]:
    """The good one trains for `steps`; what becomes of the others is the daemon's to judge."""
    return (
        Plan(SPEAKS, "a recipe that works", steps, {"learning_rate": 5e-3, "evaluate_every": 15}),
        Plan("hot", "a learning rate too high to settle", 300, {"learning_rate": 0.15, "evaluate_every": 5}),
        Plan("slip", "a learning rate of 2e3 for 2e-3, its minus sign lost", 300, {"learning_rate": 2e3, "evaluate_every": 5}),
    )


def speech_folder(environ: Mapping[str, str]) -> Path:
    """Where the demo's speech is kept: one folder for each way of making it."""
    room = files("smarttuner") / "trainer" / "tacotron2"
    made_by = hashlib.sha256(b"".join((room / name).read_bytes() for name in ("speech.py", "grammar.py", "wav.py"))).hexdigest()
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "smart-tuner" / f"demo-speech-{UTTERANCES}-{made_by[:12]}"


def check_installed() -> None:
    """SmartTunerError where the extra is missing, before anything starts."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SmartTunerError(
            f"the demo trains Tacotron 2, which needs {', '.join(missing)}, not installed here",
            'install it: pip install "smart-tuner[tacotron2]"',
        )


def command(*arguments: str) -> list[str]:
    """The command line of this very installation."""
    return [sys.executable, "-m", "smarttuner.daemon.cli.main", *arguments]


def surroundings(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What the demo's processes find in their environment: its own data directory, one thread each."""
    own = {"SMART_TUNER_DATA_DIR": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    own["SMART_TUNER__AUDIO_PROCESSING__QUALITY_METRICS"] = "[]"  # audio_quality_score alone: the others take seconds
    kept = {name: value for name, value in environ.items() if name not in LEFT_OUT}
    return kept | own | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


LEFT_OUT = ("SMART_TUNER_MODE", "SMART_TUNER_RUN", "SMART_TUNER_CONFIG", "RANK", "WORLD_SIZE", "MASTER_ADDR")
"""A person's own, which would change what the demo shows."""
