"""The seed's sections that a later issue makes act (search, tracking, audio, delivery, security), each key with its meaning."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from .config_types import Flag, Named, Number, Secret, Section, Several, Shown, Text, Value, Whole, key, part, unique, wrong

Component = Literal[
    "log_watcher",
    "metrics_store",
    "optimization_engine",
    "param_scheduler",
    "trainer_wrapper",
    "early_stop_controller",
    "alert_manager",
    "model_registry",
]
EngineName = Literal["optuna", "ray_tune", "hyperopt"]
SPECIFIER = re.compile(r"(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+){0,2})")


def compare(version: tuple[int, ...], operator: str, wanted: tuple[int, ...]) -> bool:
    """`version operator wanted`, over the parts that `wanted` names.

    >>> compare((3, 12, 1), ">=", (3, 11)), compare((3, 12, 1), "==", (3, 12)), compare((3, 12, 1), ">", (3, 12))
    (True, True, False)
    """
    have = version[: len(wanted)]
    return {
        ">=": have >= wanted,
        "<=": have <= wanted,
        "==": have == wanted,
        "!=": have != wanted,
        ">": have > wanted,
        "<": have < wanted,
    }[operator]


class CoreEngine(Section):
    """What this installation is."""

    name: Text = key("the name of this installation", "SmartTunerV2")
    version: Text = key("the version of this configuration, for people", "2.0.0")
    language: Literal["python"] = key("the language of the jobs; only python can be attached", "python")
    python_version: Text = key("the Python that the daemon may run on, as >=3.11; another one refuses the file", ">=3.11")
    framework: Literal["pytorch"] = key("the framework of the jobs; only pytorch can be steered", "pytorch")
    components: Annotated[Several[Component], AfterValidator(unique)] = key("the parts that run", list(Component.__args__))  # type: ignore[attr-defined]  # a Literal has its words there

    @field_validator("python_version")
    @classmethod
    def _this_python_is_meant(cls, value: str) -> str:
        for one in value.split(","):
            parts = SPECIFIER.fullmatch(one.strip())
            if not parts:
                raise wrong(f'"{value}" is not a version', 'write for example ">=3.11" or ">=3.11,<3.14"')
            if not compare(sys.version_info[:3], parts[1], tuple(map(int, parts[2].split(".")))):
                running = ".".join(map(str, sys.version_info[:3]))
                raise wrong(f'"{value}" does not allow Python {running}, which runs here', "use another Python, or widen it")
        return value


class Tpe(Section):
    """Tree-structured Parzen estimator."""

    name: Text = key("a name for people", "Tree-structured Parzen Estimator")
    startup_trials: Whole = key("random trials before the model is asked", 15, "trials", ge=1)
    consider_magic_clip: Flag = key("bound the kernels' widths from below", True)


class CmaEs(Section):
    """Covariance matrix adaptation."""

    name: Text = key("a name for people", "Covariance Matrix Adaptation")
    sigma0: Number = key("first step width, relative to the range", 0.3, gt=0)


class Bohb(Section):
    """Bayesian optimization with HyperBand."""

    name: Text = key("a name for people", "Bayesian Optimization HyperBand")
    min_budget: Whole = key("smallest budget of a trial", 10, "epochs", ge=1)
    max_budget: Whole = key("largest budget of a trial", 100, "epochs", ge=1)

    @field_validator("max_budget")
    @classmethod
    def _not_below_the_smallest(cls, value: int, info: ValidationInfo) -> int:
        low = info.data.get("min_budget")
        if low is not None and value < low:
            raise wrong(f"{value} is below min_budget ({low})", f"write max_budget: {low} or more")
        return value


class HyperBand(Section):
    """HyperBand scheduler."""

    name: Text = key("a name for people", "HyperBand Scheduler")
    max_iter: Whole = key("most resource that one trial gets", 80, "epochs", ge=1)
    eta: Whole = key("of how many trials one goes on", 3, ge=2)


class Algorithms(Section):
    """Options of the search algorithms."""

    tpe: Tpe = part("tree-structured Parzen estimator", Tpe)
    cma_es: CmaEs = part("covariance matrix adaptation", CmaEs)
    bohb: Bohb = part("Bayesian optimization with HyperBand", Bohb)
    hyperband: HyperBand = part("HyperBand scheduler", HyperBand)


class Optimization(Section):
    """The search over hyperparameters."""

    primary_engine: EngineName = key("the engine that is asked first", "optuna")
    secondary_engines: Annotated[Several[EngineName], AfterValidator(unique)] = key("engines that may be asked too", [])
    algorithms: Algorithms = part("options of the search algorithms", Algorithms)


class Dimension(Section):
    """One parameter of the search space."""

    type: Literal["uniform", "loguniform", "choice"] = key("how values are drawn")
    low: Number | None = key("smallest value; not for choice", None)
    high: Number | None = key("largest value; not for choice", None, validate_default=True)
    choices: Several[Value] | None = key("the values; only for choice", None, validate_default=True)
    default: Value = key("the value without a search", None, validate_default=True)

    @field_validator("low")
    @classmethod
    def _above_zero_for_a_logarithm(cls, value: float | None, info: ValidationInfo) -> float | None:
        if info.data.get("type") == "loguniform" and value is not None and value <= 0:
            raise wrong(f"{value:g} has no logarithm", "write a number above 0, or type: uniform")
        return value

    @field_validator("high")
    @classmethod
    def _a_range(cls, value: float | None, info: ValidationInfo) -> float | None:
        kind, low = info.data.get("type"), info.data.get("low")
        if kind == "choice" and (value is not None or low is not None):
            raise wrong("a choice has no low and high", "write choices: [...], or type: uniform")
        if kind in ("uniform", "loguniform") and "low" in info.data and (value is None or low is None):
            raise wrong(f"type {kind} needs low and high", "write both", at="type")
        if value is not None and low is not None and low >= value:
            raise wrong(f"{value:g} is not above low ({low:g})", "swap them?")
        return value

    @field_validator("choices")
    @classmethod
    def _something_to_choose(cls, value: list[Any] | None, info: ValidationInfo) -> list[Any] | None:
        kind = info.data.get("type")
        if kind == "choice" and not value:
            raise wrong("type choice needs choices", "write choices: [...]", at="type" if value is None else "")
        if kind in ("uniform", "loguniform") and value is not None:
            raise wrong(f"type {kind} has no choices", "write low and high, or type: choice")
        return value

    @field_validator("default")
    @classmethod
    def _inside(cls, value: Any, info: ValidationInfo) -> Any:
        low, high, choices = (info.data.get(name) for name in ("low", "high", "choices"))
        if value is None:
            return value
        if choices is not None and value not in choices:
            raise wrong(f"{value} is none of the choices", "add it to choices, or take one of them")
        if low is None or high is None:
            return value
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong(f'"{value}" is not a number', f"write a number from {low:g} to {high:g}")
        if not low <= value <= high:
            raise wrong(f"{value:g} is outside {low:g} to {high:g}", "move it inside, or widen the range")
        return value


class Mlflow(Section):
    """Mirror to an MLflow server."""

    tracking_uri: Text = key("the server's address", "http://localhost:5000")
    experiment_name: Text = key("the experiment that runs go to", "smart-tuner")
    auto_log: Flag = key("mirror every run without being asked", True)


class Wandb(Section):
    """Mirror to Weights & Biases."""

    project: Text = key("the project that runs go to")
    entity: Text | None = key("the team or person", None)
    sync_tensorboard: Flag = key("mirror what a job writes for TensorBoard", False)


class Tensorboard(Section):
    """Event files for TensorBoard."""

    log_dir: Text = key("the folder of the event files", "./logs/tensorboard")
    write_graph: Flag = key("write the model's graph", True)
    write_images: Flag = key("write images", True)


class Neptune(Section):
    """Neptune, whose hosted service closed on 2026-03-05."""

    project: Text = key("workspace/project")
    api_token: Annotated[Secret, Shown] = key("the token")


class Platforms(Section):
    """Trackers that mirror runs; each is optional and off unless named."""

    mlflow: Named[Mlflow] = key("mirror to MLflow", None)
    wandb: Named[Wandb] = key("mirror to Weights & Biases", None)
    tensorboard: Named[Tensorboard] = key("event files for TensorBoard", None)
    neptune: Named[Neptune] = key("Neptune's offline format", None)


class Slack(Section):
    """Alerts to Slack."""

    webhook_url: Annotated[Secret, Shown] = key("the incoming webhook")
    channels: Several[Text] = key("where alerts go", [])


class Discord(Section):
    """Alerts to Discord."""

    webhook_url: Annotated[Secret, Shown] = key("the webhook")


class Email(Section):
    """Alerts by mail."""

    smtp_server: Text = key("host, or host:port")
    recipients: Several[Text] = key("who gets the mail", min_length=1)

    @field_validator("recipients")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for one in value:
            if not re.fullmatch(r"[^@\s]+@[^@\s]+", one):
                raise wrong(f'"{one}" is not a mail address', "write name@host")
        return value


class AlertChannels(Section):
    """Where alerts are delivered; each is optional and off unless named."""

    slack: Named[Slack] = key("alerts to Slack", None)
    discord: Named[Discord] = key("alerts to Discord", None)
    email: Named[Email] = key("alerts by mail", None)


SearchSpace = Annotated[dict[str, Dimension], Field(description="the parameters that a search may change")]
