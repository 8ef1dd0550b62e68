"""A user's Kafka options, under the names of Java's client or librdkafka, as kafka-python's keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple

from ..core.errors import ConfigError
from ..core.registry import did_you_mean
from .kafka_keys import ALL, KNOWN, PASSED, REFUSED, SECURITY, WITHOUT_EFFECT, Passed, Role, canonical, is_secret
from .kafka_security import Security, security_of

CODECS = {"lz4": ("lz4", "lz4"), "zstd": ("zstandard", "zstandard"), "snappy": ("snappy", "python-snappy")}
"""The module that a codec needs, and the package it comes in."""
Value = str | int | bool


class KeyProblem(NamedTuple):
    """One key to change: its name as written, what is wrong, what to do. Never holds a secret."""

    key: str
    message: str
    hint: str


class Reading(NamedTuple):
    """What the options say: by canonical name; how the connection is secured; what is wrong; what has no effect here."""

    values: dict[str, str]
    security: Security
    problems: list[KeyProblem]
    without_effect: list[str]


def read_options(client: Mapping[str, Value], bootstrap: str = "") -> Reading:
    """Looks at every key, without reading a file. `bootstrap`: the bus URL's brokers, which a pasted key may repeat."""
    values: dict[str, str] = {}
    written: dict[str, str] = {}
    problems: list[KeyProblem] = []
    without_effect: list[str] = []
    for key, raw in client.items():
        name, text = canonical(key), _text(key, raw)
        if name in WITHOUT_EFFECT:
            without_effect.append(key)
        elif name in values and values[name] != text:
            problems.append(KeyProblem(key, f"is the same as {written[name]}, with another value", "keep one of them"))
        else:
            problem = _problem(key, name, text, bootstrap)
            if problem is not None:
                problems.append(problem)
            elif name in PASSED or name in SECURITY:
                values[name], written[name] = text, key

    def say(key: str, message: str, hint: str) -> None:
        problems.append(KeyProblem(written.get(key, key), message, hint))

    return Reading(values, security_of(values, say), problems, without_effect)


def _text(key: str, raw: Value) -> str:
    text = str(raw).lower() if isinstance(raw, bool) else str(raw)
    return text if is_secret(key) else text.strip()


def _problem(key: str, name: str, text: str, bootstrap: str) -> KeyProblem | None:
    if name == "bootstrap.servers":
        if not bootstrap or sorted(text.replace(" ", "").split(",")) == sorted(bootstrap.split(",")):
            return None
        return KeyProblem(key, f"names other brokers than the bus ({bootstrap})", "keep the bus URL, and remove this key")
    refused = REFUSED.get(name)
    if refused is not None:
        return None if text.lower() in refused.harmless else KeyProblem(key, f"cannot be set: {refused.why}", refused.hint)
    if name in SECURITY:
        return None
    passed = PASSED.get(name)
    if passed is None:
        return KeyProblem(key, "is no option of a Kafka client that is known here", did_you_mean(name, KNOWN))
    return _wrong_value(key, passed, text)


def _wrong_value(key: str, passed: Passed, text: str) -> KeyProblem | None:
    if passed.kind == "choice" and text.lower() not in passed.choices:
        return KeyProblem(key, f'"{text}" is not known', did_you_mean(text.lower(), list(passed.choices)))
    if passed.kind == "text" and not text:
        return KeyProblem(key, "is empty", "write a value, or remove the key")
    if passed.kind != "whole":
        return None
    try:
        number = int(text)
    except ValueError:
        return KeyProblem(key, f'"{text}" is not a whole number', f"write {key}: {max(passed.least, 1000)}")
    if not passed.least <= number <= passed.most:
        return KeyProblem(key, f"{number} is not from {passed.least} to {passed.most}", f"write {key}: a number in between")
    return None


def layered(below: Mapping[str, Value], above: Mapping[str, Value]) -> dict[str, Value]:
    """Both, where `above` wins whichever name of an option it uses.

    >>> layered({"sasl.mechanisms": "PLAIN", "client.id": "a"}, {"sasl_mechanism": "SCRAM-SHA-512"})
    {'client.id': 'a', 'sasl_mechanism': 'SCRAM-SHA-512'}
    """
    stated = {canonical(name) for name in above}
    return {name: one for name, one in below.items() if canonical(name) not in stated} | dict(above)


def client_options(bootstrap: str, client: Mapping[str, Value], role: Role | None = None) -> dict[str, object]:
    """kafka-python's keyword arguments for a client of this `role`, or those that every client takes.

    `bootstrap` is `host:port[,host:port]`. Reads the certificates that are named, so each new client takes up rotated ones.
    ConfigError for the first thing that is wrong.
    """
    reading = read_options(client, bootstrap)
    if reading.problems:
        first = reading.problems[0]
        raise ConfigError(f"bus.kafka.client.{first.key}: {first.message}", first.hint)
    made: dict[str, object] = {"bootstrap_servers": bootstrap.split(",")}
    for name, text in reading.values.items():
        passed = PASSED.get(name)
        if passed is not None and (role in passed.roles if role else passed.roles == ALL):
            made[passed.argument] = _value(passed, text)
    return made | reading.security.arguments()


def _value(passed: Passed, text: str) -> object:
    if passed.argument != "compression_type":
        return int(text) if passed.kind == "whole" else text
    codec = text.lower()
    module, package = CODECS.get(codec, ("", ""))
    if module and find_spec(module) is None:
        raise ConfigError(f"compression.type {codec} needs the package {package}", f"pip install {package}, or take gzip")
    return None if codec in ("none", "uncompressed") else codec
