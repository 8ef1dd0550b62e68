"""The configuration: one typed tree, read and checked once at the door.

`load` finds the file, reads it (config_yaml), puts variables in (config_fill), checks it against the models, and says everything
that is wrong at once. Inside, `Config` is plain typed; secrets are SecretStr.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from ..consumers.aliases import listed_twice
from ..core.errors import ConfigError
from .config_acting import Missing, missing_in
from .config_errors import ConfigProblems, Path, Problem
from .config_fill import Filling, fill, override
from .config_judging import BusRules, Decisions, EarlyStopping, Limits, Metrics, Policies, StoreRules
from .config_kafka import anchor, refused_options
from .config_messages import place_of, problems_of
from .config_place import find
from .config_seed import AlertChannels, CoreEngine, Optimization, Platforms, SearchSpace
from .config_seed_job import AudioProcessing, Cicd, ExperimentTracking, Resources, Security
from .config_types import Section, SeriesName, Several, key, part, wrong
from .config_watch import Watch
from .config_yaml import Document, parse, read_text

__all__ = ["Config", "ConfigProblems", "Loaded", "find", "load"]

NEPTUNE_CLOSED = "Neptune's hosted service closed on 2026-03-05: metrics stay local"


def _listed_once(names: dict[str, list[str]]) -> dict[str, list[str]]:
    twice = listed_twice(names)
    if twice is not None:
        raise wrong(f"{twice[0]} stands under {twice[1]} and under {twice[2]}", "a series is one thing: keep one of them")
    return names


Aliases = Annotated[dict[SeriesName, Several[SeriesName]], AfterValidator(_listed_once)]


class Monitoring(Section):
    """What is watched and who is told."""

    platforms: Platforms = part("trackers that mirror runs", Platforms)
    metrics: Metrics = part("which series are judged", Metrics)
    aliases: Aliases = key("for the name of a series the others that it goes by; in place of the shipped list of that name", {})
    alerts: AlertChannels = part("where alerts are delivered", AlertChannels)


class Config(Section):
    """The whole tree; each default stands at its field."""

    core_engine: CoreEngine = part("what this installation is", CoreEngine)
    optimization: Optimization = part("the search over hyperparameters", Optimization)
    search_space: SearchSpace = Field({}, description="the parameters that a search may change, by name")
    monitoring: Monitoring = part("what is watched and who is told", Monitoring)
    early_stopping: EarlyStopping = part("when a run is stopped, slowed or reported", EarlyStopping)
    resources: Resources = part("what jobs that Smart Tuner starts may use", Resources)
    audio_processing: AudioProcessing = part("the Tacotron 2 job's sound", AudioProcessing)
    experiment_tracking: ExperimentTracking = part("what is kept about experiments", ExperimentTracking)
    cicd: Cicd = part("checks and delivery of models", Cicd)
    security: Security = part("secrets, access, privacy", Security)
    bus: BusRules = part("the log on which everything travels", BusRules)
    watch: Watch = Field([], description="which runs are judged by what; the first entry that fits holds")
    policies: Policies = part("modes and options of the policies", Policies)
    limits: Limits = part("what is never exceeded", Limits)
    decisions: Decisions = part("how decisions live", Decisions)
    store: StoreRules = part("the Parquet folders", StoreRules)


@dataclass(frozen=True)
class Loaded:
    """A configuration, where it came from, and what a person should hear about it."""

    config: Config
    path: pathlib.Path | None = None
    warnings: list[str] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    places: dict[Path, str] = field(default_factory=dict)


def load(path: str | pathlib.Path | None, environ: Mapping[str, str], strict: bool = False) -> Loaded:
    """The configuration in force. ConfigError with everything that is wrong; `strict`: what would be off is wrong too."""
    found = find(path, environ)
    if found is None:
        document = Document()
    else:
        try:
            text = read_text(found)
        except ConfigError as error:
            named = path is None and environ.get("SMART_TUNER_CONFIG")
            raise ConfigError(f"SMART_TUNER_CONFIG: {error.message}", error.hint) if named else error from None
        document = parse(text, str(found))
    override(document, environ)
    filling = fill(document, environ, found.parent if found else pathlib.Path())
    anchor(document.tree, found.parent if found else pathlib.Path())
    absent = missing_in(document.tree)
    config = _validated(document, filling, strict)
    _check_policies(config, document)
    _check_kafka(config, document)
    warnings = [_off(part, problem) for part, problem in filling.off.items()]
    if found is not None and not document.places:
        warnings.insert(0, f"{found}: is empty: the defaults apply")
    if config.monitoring.platforms.neptune is not None:
        warnings.append(
            f"{document.places[('monitoring', 'platforms', 'neptune')]}: monitoring.platforms.neptune: {NEPTUNE_CLOSED}"
        )
    return Loaded(config, found, warnings, absent, document.places)


def _off(part: Path, problem: Problem) -> str:
    return str(Problem(problem.place, problem.path, f"{problem.message}: {part[-1]} is off", problem.hint))


def _validated(document: Document, filling: Filling, strict: bool) -> Config:
    """The models' tree. Optional parts that are off are checked like the others, then taken out."""
    problems = document.problems + filling.problems + (list(filling.off.values()) if strict else [])
    config = None
    try:
        config = Config.model_validate(document.tree)
    except ValidationError as error:
        problems += [one for one in problems_of(error, document, Config) if one.path not in filling.unknown]
    if problems:
        raise ConfigProblems(problems)
    if config is None or filling.off:
        for part in filling.off:
            document.tree[str(part[0])][part[1]].pop(part[2])
        config = Config.model_validate(document.tree)
    return config


def _check_policies(config: Config, document: Document) -> None:
    """Each policy that is named by name exists and takes its options. Asked only then: it imports numpy."""
    if not config.policies.rules() and not any(one.policies for one in config.watch):
        return
    from .config_rules import refused

    problems = []
    for path, message, hint in refused(config):
        path = _written(path, message, document)
        problems.append(Problem(place_of(document, path), path, message, hint))
    if problems:
        raise ConfigProblems(problems)


def _written(path: Path, message: str, document: Document) -> Path:
    """Where what `message` is about was written: options may stand beside the mode."""
    if path not in document.places and path[-1] == "options":
        beside = [one for one in document.places if one[:-1] == path[:-1] and str(one[-1]) in message.split(": ", 1)[-1]]
        return beside[0] if beside else path[:-1]
    return path if path in document.places else path[:-1]


def _check_kafka(config: Config, document: Document) -> None:
    """The Kafka client's options are known and go together, in the file and in the properties file that it names."""
    found = refused_options(config.bus.kafka, config.bus.url)
    problems = [Problem(place or place_of(document, path), path, message, hint) for place, path, message, hint in found]
    if problems:
        raise ConfigProblems(problems)
