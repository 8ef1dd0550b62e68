"""The sections that the loop acts on: what is judged and by what, gates, policies, limits, bus and store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ..bus.kafka_address import servers_of
from ..core.errors import ConfigError
from ..core.events import Goal, Mode
from .config_kafka import KafkaBus
from .config_strategies import Strategies
from .config_types import Flag, Number, Seconds, Section, Several, Size, Text, Value, Whole, flag, key, part, unique, wrong

SHORT_GATES: dict[str, tuple[str, dict[str, str]]] = {
    "max_acceptable_loss": ("max", {"goal": "min"}),
    "audio_quality_threshold": ("min", {"series": "audio_quality_score"}),
}
"""Short names of the seed that do not name their series themselves: the bound, and what else they mean. A greatest loss is
about the judged series, where that is better low."""


class Metrics(Section):
    """Which series are judged."""

    primary: Text = key("the series that is judged where a job names none", "val_loss")
    secondary: Annotated[Several[Text], AfterValidator(unique)] = key("further series to show beside it", [])


class Gate(Section):
    """A bound on a series. `min_X: 0.85` and `max_X: 2.0` are short for series X with that bound."""

    series: Text | None = key("the series; the judged one if not given", None)
    min: Number | None = key("smallest value that passes", None, "of the series")
    max: Number | None = key("largest value that passes", None, "of the series", validate_default=True)
    then: Literal["alert", "prune"] = key("what a value outside does: tell, or end the run", "alert")
    after: Whole = key("points of the series before the gate is looked at", 10, "points", ge=0)
    goal: Goal | None = key("look only at a series that is better low (min) or high (max)", None)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler(core_schema), {"type": "number", "description": "short form"}]}

    @model_validator(mode="before")
    @classmethod
    def _long_form(cls, value: Any) -> Any:
        if isinstance(value, str | int | float):
            raise wrong("does not say of which series", "start its name with min_ or max_, or write {series: NAME, min: N}")
        return value

    @field_validator("max")
    @classmethod
    def _some_bound(cls, value: float | None, info: ValidationInfo) -> float | None:
        low = info.data.get("min")
        if value is None and low is None and "min" in info.data:
            raise wrong("has neither min nor max", "write min: or max:", at=".")
        if value is not None and low is not None and low > value:
            raise wrong(f"{value:g} is below min ({low:g})", "swap them?")
        return value


def long_gates(value: Any) -> Any:
    """Gates in short form (`min_alignment_score: 0.85`) as long ones; what is neither is left for Gate to refuse."""
    if not isinstance(value, Mapping):
        return value
    return {name: gate if isinstance(gate, Mapping | Gate) else _long(str(name), gate) for name, gate in value.items()}


def _long(name: str, bound: Any) -> Any:
    if name in SHORT_GATES:
        side, more = SHORT_GATES[name]
        return {side: bound} | more
    side, _, series = name.partition("_")
    if side in ("min", "max") and series:
        return {side: bound, "series": series}
    return "" if bound is None else bound


OFF = ("off", "false", "no")
GateName = Annotated[str, Field(min_length=1, max_length=64)]
Gates = Annotated[dict[GateName, Gate], BeforeValidator(long_gates)]


class EarlyStopping(Section):
    """When a run is stopped, slowed or reported."""

    strategies: Strategies = part("the strategies", Strategies)
    quality_gates: Gates = Field({}, description="bounds on series, by name")


class PolicyRule(Section):
    """What a person says about one policy by its name in docs/policies.md, or about a rule of their own, which has `when`.

    Short forms: the mode alone (`patience: observe`), and options beside the keys (`patience: {patience: 20}`).
    """

    mode: Literal["act", "observe", "off"] = key(
        "a policy that is named here or under early_stopping acts unless this says else", "act"
    )
    options: dict[str, Value] = key("options of the policy, over those of early_stopping; they may also stand beside mode", {})
    when: Text | None = key("for a rule of your own: conditions joined by & | ~, as patience(patience=5) & ~divergence", None)
    then: Literal["prune", "alert"] | None = key("what a rule of your own does where its conditions hold; prune if not given", None)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        form = handler(core_schema) | {"additionalProperties": {"type": ["boolean", "number", "string", "null"]}}
        return {"anyOf": [form, {"enum": ["act", "observe", "off"], "description": "short form"}]}

    @model_validator(mode="before")
    @classmethod
    def _long_form(cls, value: Any) -> Any:
        if isinstance(value, bool | str):
            return {"mode": "off" if str(value).lower() in OFF else value}
        if not isinstance(value, Mapping):
            return value
        stated = dict(value)
        beside = {name for name, one in stated.items() if name not in cls.model_fields and not isinstance(one, Mapping | list)}
        if stated.get("mode") in ("min", "max"):
            beside.add("mode")
        if "when" not in stated and "then" in stated:
            beside.add("then")
        if not beside or not isinstance(stated.get("options") or {}, Mapping):
            return stated
        options = dict(stated.get("options") or {})
        twice = next((name for name in beside if name in options), None)
        if twice is not None:
            raise wrong(f"{twice} stands beside options and in them", "keep one of them")
        options |= {name: stated.pop(name) for name in list(stated) if name in beside}
        return stated | {"options": options}


class Policies(Section):
    """`default`, and a rule a policy."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, PolicyRule] = Field(init=False)
    default: Mode = key("mode of the shipped policies that nobody named", "observe")

    def rules(self) -> dict[str, PolicyRule]:
        """The rules by the policy's name."""
        return dict(self.__pydantic_extra__ or {})


class JobLimits(Section):
    """What a job may say of its own judgement, over the file."""

    job_policies: Flag | list[Text] = key(
        "whether a job's own policies= hold: true, false, or the list of those that do", True, union_mode="left_to_right"
    )
    job_monitor: Flag = key("whether a job's own monitor= and goal= hold", True)
    mode: Literal["act", "observe"] | None = key("the most that any policy does, whoever named it", None)

    @field_validator("job_policies", mode="before")
    @classmethod
    def _flag_or_names(cls, value: Any) -> Any:
        if isinstance(value, list):
            return value
        return flag(value)


class Limits(JobLimits):
    """What is never exceeded, whoever asks."""

    decisions_per_hour: Whole = key("decisions that act, a run and hour; more are refused", 30, "decisions", ge=1)
    prunes_per_hour: Whole | None = key(
        "prunes of policies an hour, over the runs of a group, or over those without one; more are refused; none: no limit",
        None,
        "prunes",
        ge=0,
    )
    never_last_of_group: Flag = key("policies end no run of a group of which no other has finished or goes on", True)
    min_peer_progress: Number = key(
        "a run is not ended for what its peers reached before it has come this share of the furthest one's way", 0.0, ge=0, le=1
    )
    points_per_s: Number = key(
        "points that are read of one run; over it only its own spool fills; 0: no limit", 0.0, "points/s", ge=0
    )
    user_points_per_s: Number = key("points read of all runs of one user; 0: no limit", 0.0, "points/s", ge=0)


class Decisions(Section):
    """How decisions live."""

    not_after_s: Seconds = key("a decision that is older is not applied any more", 600.0, "seconds", gt=0, le=86400)


class BusRules(Section):
    """The log on which everything travels."""

    url: Text = key("local: for the log inside the daemon, kafka://host:port[,…] for Kafka", "local:")
    retention_bytes: Size = key("size above which the oldest metrics leave the local log", 2 * 1024**3, "bytes", ge=1024**2)
    retention_s: Seconds = key(
        "age above which records leave the log; on Kafka the retention.ms of topics that are created", 7 * 86400.0, "seconds", ge=60
    )
    kafka: KafkaBus = part("options of a kafka:// bus", KafkaBus)

    @field_validator("url")
    @classmethod
    def _known(cls, value: str) -> str:
        if value.startswith("local:"):
            return value
        if not value.startswith("kafka:"):
            raise wrong(f'"{value}" is no bus', "write local: or kafka://host:port")
        try:
            servers_of(value)
        except ConfigError as error:
            raise wrong(error.message, error.hint) from error
        return value


class StoreRules(Section):
    """The Parquet folders."""

    url: str | None = key(
        "where metrics/, runs/ and decisions/ are kept: a folder (also of NFSv4), file://… or s3://bucket/prefix; none: the data"
        " directory",
        None,
        "path or URL",
    )
    seal_rows: Whole = key("rows after which a metrics file is sealed", 1_000_000, "rows", ge=1000)
    retention_days: Number | None = key("age above which metrics leave the store; none keeps them", None, "days", gt=0)
    publish_s: Seconds | None = key(
        "time after which stored rows are visible to readers; none: 1, and 10 in a bucket", None, "seconds", gt=0, le=60
    )
