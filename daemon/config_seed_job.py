"""The seed's sections about the training job and its surroundings: resources, audio, tracking, delivery, security."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationInfo, field_validator

from .config_types import Flag, Number, Section, Several, Text, Whole, key, part, unique, wrong


class Gpu(Section):
    """What a job may take of the GPUs."""

    max_gpus: Whole = key("most GPUs of one job", 4, "GPUs", ge=0)
    memory_fraction: Number = key("share of a GPU's memory that a job may take", 0.9, "0..1", gt=0, le=1)
    allow_growth: Flag = key("take GPU memory as needed, not at once", True)
    mixed_precision: Flag = key("train in mixed precision", True)


class Distributed(Section):
    """Training over several processes."""

    backend: Literal["nccl", "gloo", "mpi"] = key("torch.distributed's backend", "nccl")
    world_size: Whole = key("processes of a job", 1, "processes", ge=1)
    rank: Whole = key("this process", 0, "process number from 0", ge=0)

    @field_validator("rank")
    @classmethod
    def _one_of_the_world(cls, value: int, info: ValidationInfo) -> int:
        world = info.data.get("world_size")
        if world is not None and value >= world:
            raise wrong(f"{value} is not below world_size ({world})", f"ranks are 0 to {world - 1}")
        return value


class Checkpointing(Section):
    """Checkpoints of the jobs that Smart Tuner starts."""

    save_frequency: Whole = key("steps between checkpoints", 1000, "steps", ge=1)
    keep_n_checkpoints: Whole = key("checkpoints kept; the best is kept besides", 5, "checkpoints", ge=1)
    async_save: Flag = key("write beside the training", True)
    compression: Literal["gzip", "zstd", "none"] = key("how checkpoints are packed", "none")


class MemoryOptimization(Section):
    """What saves GPU memory."""

    gradient_checkpointing: Flag = key("compute activations again in the backward pass", False)
    activation_checkpointing: Flag = key("checkpoint activations a layer", False)
    cpu_offload: Flag = key("keep optimizer state in the host's memory", False)


class Resources(Section):
    """What jobs that Smart Tuner starts may use."""

    gpu: Gpu = part("what a job may take of the GPUs", Gpu)
    distributed: Distributed = part("training over several processes", Distributed)
    checkpointing: Checkpointing = part("checkpoints", Checkpointing)
    memory_optimization: MemoryOptimization = part("what saves GPU memory", MemoryOptimization)


class Preprocessing(Section):
    """From sound to spectrogram."""

    sample_rate: Whole = key("samples a second", 22050, "Hz", ge=1000)
    n_fft: Whole = key("length of the Fourier transform", 1024, "samples", ge=2)
    hop_length: Whole = key("samples between frames", 256, "samples", ge=1)
    win_length: Whole = key("length of the window; at most n_fft", 1024, "samples", ge=2)
    n_mels: Whole = key("mel bands", 80, "bands", ge=1)

    @field_validator("win_length")
    @classmethod
    def _inside_the_transform(cls, value: int, info: ValidationInfo) -> int:
        longest = info.data.get("n_fft")
        if longest is not None and value > longest:
            raise wrong(f"{value} is above n_fft ({longest})", f"write win_length: {longest} or less")
        return value


Technique = Literal["time_stretch", "pitch_shift", "add_noise", "speed_perturbation"]
AudioMetric = Literal["mel_spectral_distance", "perceptual_evaluation_speech_quality", "short_time_objective_intelligibility"]


class Augmentation(Section):
    """Variations of the sound."""

    enable: Flag = key("augment the training data", False)
    techniques: Annotated[Several[Technique], AfterValidator(unique)] = key("what is done", [])


class AudioProcessing(Section):
    """The Tacotron 2 job's sound."""

    preprocessing: Preprocessing = part("from sound to spectrogram", Preprocessing)
    augmentation: Augmentation = part("variations of the sound", Augmentation)
    quality_metrics: Annotated[Several[AudioMetric], AfterValidator(unique)] = key("what is measured on synthesized sound", [])


class Versioning(Section):
    """Where models and artifacts go."""

    model_registry: Literal["mlflow", "local"] = key("where models are registered", "local")
    artifact_store: Text = key("where artifacts go", "local")


class Metadata(Section):
    """What is noted about a run."""

    track_code_version: Flag = key("note the commit", True)
    track_environment: Flag = key("note the environment", True)
    track_dependencies: Flag = key("note installed packages", True)
    track_system_metrics: Flag = key("follow CPU, memory and GPU", True)


class Reproducibility(Section):
    """How equal two runs are."""

    seed: Whole = key("the random seed of jobs that Smart Tuner starts", 42, ge=0, lt=2**32)
    deterministic: Flag = key("only deterministic kernels", True)
    benchmark_mode: Flag = key("let cuDNN choose kernels by speed", False)


class ExperimentTracking(Section):
    """What is kept about experiments."""

    versioning: Versioning = part("where models and artifacts go", Versioning)
    metadata: Metadata = part("what is noted about a run", Metadata)
    reproducibility: Reproducibility = part("how equal two runs are", Reproducibility)


class Triggers(Section):
    """When checks run."""

    on_push: Flag = key("check on a push", True)
    on_pull_request: Flag = key("check on a pull request", True)
    scheduled: Text | None = key("a cron line of five fields", None)

    @field_validator("scheduled")
    @classmethod
    def _five_fields(cls, value: str | None) -> str | None:
        if value is not None and len(value.split()) != 5:
            raise wrong(f'"{value}" is not a cron line', 'write five fields, as "0 2 * * *" for daily at 2')
        return value


class Deployment(Section):
    """When a model goes where."""

    staging_threshold: Number = key("quality from which a model goes to staging", 0.95, "0..1", ge=0, le=1)
    production_threshold: Number = key(
        "quality from which a model goes to production; not below staging_threshold",
        0.97,
        "0..1",
        ge=0,
        le=1,
        validate_default=True,
    )
    rollback_trigger: Number = key("quality below which production goes back", 0.9, "0..1", ge=0, le=1)

    @field_validator("production_threshold")
    @classmethod
    def _not_below_staging(cls, value: float, info: ValidationInfo) -> float:
        staging = info.data.get("staging_threshold")
        if staging is not None and value < staging:
            raise wrong(f"{value:g} is below staging_threshold ({staging:g})", f"write production_threshold: {staging:g} or more")
        return value


class Cicd(Section):
    """Checks and delivery of models."""

    triggers: Triggers = part("when checks run", Triggers)
    quality_checks: Several[Text] = key("what has to pass", [])
    deployment: Deployment = part("when a model goes where", Deployment)


class SecretsManagement(Section):
    """Where secrets come from."""

    provider: Literal["environment", "vault"] = key("where secrets come from", "environment")
    auto_rotate: Flag = key("take up rotated secrets", False)


class AccessControl(Section):
    """Who may do what."""

    rbac_enabled: Flag = key("check roles", False)
    audit_logging: Flag = key("keep the audit log", False)


class DataPrivacy(Section):
    """What is kept of whom."""

    anonymize_logs: Flag = key("replace names and addresses in logs", False)
    encrypt_artifacts: Flag = key("encrypt artifacts", False)
    gdpr_compliant: Flag = key("keep the deletion and export rules of the GDPR", False)


class Security(Section):
    """Secrets, access, privacy."""

    secrets_management: SecretsManagement = part("where secrets come from", SecretsManagement)
    access_control: AccessControl = part("who may do what", AccessControl)
    data_privacy: DataPrivacy = part("what is kept of whom", DataPrivacy)
