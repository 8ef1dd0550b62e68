"""What one Tacotron 2 training is told: sizes, sound, schedule, resources. Plain values, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from ...core.errors import ConfigError
from ...core.registry import did_you_mean

Precision = Literal["float32", "bfloat16", "float16"]
Compression = Literal["gzip", "zstd", "none"]
TECHNIQUES = ("time_stretch", "pitch_shift", "add_noise", "speed_perturbation")


@dataclass(frozen=True)
class Front:
    """The audio front end. Trainings are compared only where it is equal: another one makes another target."""

    sample_rate: int = 22050
    n_fft: int = 1024
    hop_length: int = 256
    win_length: int = 1024
    n_mels: int = 80
    mel_fmin: float = 0.0
    mel_fmax: float = 8000.0

    def __post_init__(self) -> None:
        if self.mel_fmax > self.sample_rate / 2:
            raise ConfigError(
                f"mel_fmax {self.mel_fmax:g} Hz is above half of the sample rate ({self.sample_rate / 2:g} Hz)",
                f"write mel_fmax: {self.sample_rate // 2} or less",
            )
        if self.mel_fmin >= self.mel_fmax:
            raise ConfigError(f"mel_fmin {self.mel_fmin:g} is not below mel_fmax {self.mel_fmax:g}", "swap them?")
        if self.win_length > self.n_fft:
            raise ConfigError(
                f"win_length {self.win_length} is above n_fft {self.n_fft}", f"write win_length: {self.n_fft} or less"
            )

    @property
    def frames_per_s(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length


@dataclass(frozen=True)
class Recipe:
    """What a search may change. Zero for a size means: derived from encoder_embedding_dim and decoder_rnn_dim."""

    encoder_embedding_dim: int = 128
    encoder_layers: int = 3
    encoder_kernel: int = 5
    attention_rnn_dim: int = 0
    attention_dim: int = 0
    attention_filters: int = 32
    attention_kernel: int = 31
    decoder_rnn_dim: int = 128
    prenet_dim: int = 0
    postnet_dim: int = 0
    postnet_layers: int = 0
    postnet_kernel: int = 5
    reduction_factor: int = 3
    dropout_encoder: float = 0.1
    dropout_attention: float = 0.1
    dropout_decoder: float = 0.1
    dropout_postnet: float = 0.1
    dropout_prenet: float = 0.5
    learning_rate: float = 2e-3
    final_learning_rate: float = 0.1
    warmup_steps: int = 20
    weight_decay: float = 1e-6
    batch_size: int = 16
    grad_clip_thresh: float = 1.0
    guided_attention_weight: float = 1.0
    guided_attention_width: float = 0.2
    gate_pos_weight: float = 5.0
    steps: int = 1500
    evaluate_every: int = 100
    synthesize_every: int = 500

    def complete(self) -> Recipe:
        """With every derived size filled in: 512 and 1024 give the paper's model, 128 and 128 the one that aligns in a minute."""
        embedding, decoder = self.encoder_embedding_dim, self.decoder_rnn_dim
        return replace(
            self,
            attention_rnn_dim=self.attention_rnn_dim or decoder,
            attention_dim=self.attention_dim or max(16, min(128, embedding // 2)),
            prenet_dim=self.prenet_dim or (256 if decoder >= 512 else max(16, decoder // 2)),
            postnet_dim=self.postnet_dim or embedding,
            postnet_layers=self.postnet_layers or (5 if embedding >= 256 else 3),
        )


@dataclass(frozen=True)
class Resources:
    """What the job may use of the machine."""

    max_gpus: int = 4
    memory_fraction: float = 0.9
    allow_growth: bool = True
    mixed_precision: bool = False
    backend: str = "gloo"
    world_size: int = 1
    rank: int = 0
    gradient_checkpointing: bool = False
    activation_checkpointing: bool = False
    cpu_offload: bool = False


@dataclass(frozen=True)
class Saving:
    """Checkpoints: one every `every` steps, the newest `keep` and the best are kept."""

    every: int = 1000
    keep: int = 5
    beside: bool = True
    compression: Compression = "none"


@dataclass(frozen=True)
class Board:
    """Event files for TensorBoard below `folder`; None for none."""

    folder: str | None = None
    graph: bool = True
    images: bool = True


@dataclass(frozen=True)
class Settings:
    """One training. `metrics` are the quality measures on synthesised speech; `techniques` the augmentation of the train split."""

    front: Front = field(default_factory=Front)
    recipe: Recipe = field(default_factory=Recipe)
    resources: Resources = field(default_factory=Resources)
    saving: Saving = field(default_factory=Saving)
    board: Board = field(default_factory=Board)
    techniques: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    seed: int = 42
    deterministic: bool = True
    benchmark_mode: bool = False
    monitor: str = "val_loss"

    def told(self) -> dict[str, Any]:
        """What goes into the run's record and the checkpoint: plain nested values."""
        return asdict(self)


POSITIVE = {
    "encoder_embedding_dim",
    "encoder_layers",
    "encoder_kernel",
    "attention_filters",
    "attention_kernel",
    "decoder_rnn_dim",
    "reduction_factor",
    "postnet_kernel",
    "learning_rate",
    "batch_size",
    "grad_clip_thresh",
    "steps",
    "evaluate_every",
}
ODD = {"encoder_kernel", "attention_kernel", "postnet_kernel"}
FRONT = ("mel_fmin", "mel_fmax")


def recipe_from(values: Mapping[str, Any], start: Recipe | None = None) -> Recipe:
    """A recipe from parameters by name; ConfigError with a hint for one that it does not have or cannot use."""
    known = {one.name: one for one in fields(Recipe)}
    chosen = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"the Tacotron 2 job has no parameter {name!r}", did_you_mean(name, [*known, *FRONT]))
        chosen[name] = _of_type(name, value, int if known[name].type == "int" else float)
    made = replace(start or Recipe(), **chosen)
    if made.encoder_embedding_dim % 2:
        raise ConfigError(
            f"encoder_embedding_dim {made.encoder_embedding_dim} is odd", "its LSTM has two directions: write an even one"
        )
    return made


def _of_type(name: str, value: Any, kind: type) -> Any:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: {value!r} is not a number", f"write {name}: 1") from None
    if kind is int and not number.is_integer():
        raise ConfigError(f"{name}: {value} is not a whole number", f"write {name}: {round(number)}")
    if number < 0 or (name in POSITIVE and number == 0):
        raise ConfigError(f"{name}: {value} is not above 0", f"write a positive {name}")
    if name.startswith("dropout_") and number >= 1:
        raise ConfigError(f"{name}: {value} leaves nothing", f"write {name}: 0.1")
    if name in ODD and number % 2 == 0:
        raise ConfigError(f"{name}: {value} has no middle", f"write {name}: {int(number) + 1}")
    return int(number) if kind is int else number
