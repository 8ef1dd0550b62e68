"""What a scalar of the file becomes: whole numbers, numbers, flags, text, choices, durations, sizes, secrets.

Every scalar arrives as text (see config_yaml). Each type says in its error what it wanted and, where it can guess, what to
write: `"six" is not a whole number`, hint `write patience: 6`.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from .config_errors import shown
from .config_yaml import Plain

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WHOLE = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
NUMBER = re.compile(r"[+-]?(([0-9]+(_[0-9]+)*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
BYTES = {"b": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", 1)
    for ending, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
WITH_UNIT = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]+)\s*")
T = TypeVar("T")


def wrong(message: str, hint: str = "", write: str = "", at: str = "") -> PydanticCustomError:
    """An error of ours. `write` becomes the hint `write KEY: …`; `at` names the key inside a section that is meant."""
    braced = {"said": message, "hint": hint, "write": write, "at": at}
    return PydanticCustomError("smart_tuner", "{said}", braced)


def guess_number(text: str) -> str:
    """What a person meant who wrote `text` where a number belongs; empty where it cannot be told.

    >>> guess_number("six"), guess_number("0,5"), guess_number("85 %"), guess_number("many")
    ('6', '0.5', '0.85', '')
    """
    word = text.strip().lower()
    if word in WORDS:
        return str(WORDS.index(word))
    if "," in word and NUMBER.fullmatch(word.replace(",", ".")):
        return word.replace(",", ".")
    if word.endswith("%") and NUMBER.fullmatch(word[:-1].strip()):
        return f"{float(word[:-1]) / 100:g}"
    return ""


def whole(value: Any) -> int:
    """An int; `012` is twelve, `1e6` and `6.0` are whole."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        if WHOLE.fullmatch(text) and len(text) <= 20:
            return int(text)
        if NUMBER.fullmatch(text):
            number = float(text)
            if math.isfinite(number) and number.is_integer():
                return int(number)
            raise wrong(f"{shown(value)} is not a whole number", write=str(round(number)) if abs(number) < 1e18 else "")
    guess = guess_number(value) if isinstance(value, str) else ""
    raise wrong(f"{shown(value)} is not a whole number", "write a whole number, as 6", guess if WHOLE.fullmatch(guess) else "")


def number(value: Any) -> float:
    """A finite float."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()) and math.isfinite(float(value)):
        return float(value)
    guess = guess_number(value) if isinstance(value, str) else ""
    raise wrong(f"{shown(value)} is not a number", "write a finite number, as 0.001 or 1e-3", guess)


def flag(value: Any) -> bool:
    """true, yes, on, false, no, off, in any case."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in FLAGS:
        return FLAGS[value.strip().lower()]
    raise wrong(f"{shown(value)} is neither true nor false", write={"1": "true", "0": "false"}.get(str(value), "true or false"))


def text(value: Any) -> str:
    """One line or more of text, not empty."""
    if not isinstance(value, str):
        raise wrong(f"{shown(value)} is not text", "write one value behind the colon, in quotes if it is unusual")
    if not value.strip():
        raise wrong("is empty", "write a value, or remove the key")
    return str(value)


def secret(value: Any) -> SecretStr:
    """Text that is never shown, not even where it is wrong."""
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str) or not value.strip():
        raise wrong(
            "is not text" if value is not None else "is empty", "write ${VARIABLE} or ${file:/path}, never the secret itself"
        )
    return SecretStr(str(value))


def scalar(value: Any) -> Any:
    """What an unquoted value is where no model says what it wants."""
    if not isinstance(value, Plain):
        return str(value) if isinstance(value, str) else value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if WHOLE.fullmatch(value):
        return int(value) if len(value) <= 20 else float(value)
    return float(value) if NUMBER.fullmatch(value) and math.isfinite(float(value)) else str(value)


def _measured(value: Any, units: dict[str, Any], what: str, example: str) -> float:
    if isinstance(value, str):
        parts = WITH_UNIT.fullmatch(value)
        if parts and parts[2].lower() in units:
            return float(parts[1].replace("_", "")) * float(units[parts[2].lower()])
        if not NUMBER.fullmatch(value.strip()):
            raise wrong(f"{shown(value)} is not {what}", f"write {example}; units: {', '.join(units)}")
    return number(value)


def seconds(value: Any) -> float:
    """A duration in seconds: a number, or one with a unit as 90s, 10m, 2h, 7d."""
    return _measured(value, SECONDS, "a duration", "600 (seconds) or 10m")


def size(value: Any) -> int:
    """A number of bytes: a number, or one with a unit as 64MiB."""
    return round(_measured(value, BYTES, "a size", "67108864 (bytes) or 64MiB"))


def unique(value: list[T]) -> list[T]:
    """A list without repetitions."""
    twice = next((one for i, one in enumerate(value) if one in value[:i]), None)
    if twice is not None:
        raise wrong(f"names {twice} twice", "keep one of them")
    return value


def listed(value: Any) -> Any:
    """One value where a list belongs is a mistake with an obvious cure."""
    if isinstance(value, str):
        raise wrong(f"{shown(value)} is not a list", write=f"[{value}]" if len(value) < 60 else "[...]")
    return value


def one_or_more(value: Any) -> Any:
    """One word, or a list of them."""
    return [value] if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(whole)]
Number = Annotated[float, BeforeValidator(number)]
Flag = Annotated[bool, BeforeValidator(flag)]
Text = Annotated[str, BeforeValidator(text), Field(max_length=1000)]
SeriesName = Annotated[str, BeforeValidator(text), Field(max_length=256)]
Secret = Annotated[SecretStr, BeforeValidator(secret)]
Value = Annotated[bool | int | float | str | None, BeforeValidator(scalar)]
_unit_schema = WithJsonSchema({"type": ["number", "string"]})
Seconds = Annotated[float, BeforeValidator(seconds), _unit_schema]
Size = Annotated[int, BeforeValidator(size), _unit_schema]
Shown = PlainSerializer(lambda value: "**********", return_type=str)


def key(meaning: str, default: Any = ..., unit: str = "", **bounds: Any) -> Any:
    """A key of a section: what it means, its default, its unit."""
    return Field(default, description=meaning, json_schema_extra={"unit": unit} if unit else None, **bounds)


def part(meaning: str, kind: Any) -> Any:
    """A section that is there with its defaults when the file does not name it."""
    return Field(default_factory=kind, description=meaning)


class Section(BaseModel):
    """A mapping of the file. An empty one means its defaults; a key that is not known is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: Any) -> Any:
        return {} if value is None else value


def _present(value: Any) -> Any:
    return {} if value is None else value


Named = Annotated[T | None, BeforeValidator(_present)]
"""A section that a person names or not: None when the file does not have it, its defaults when it stands there empty."""
Several = Annotated[list[T], BeforeValidator(listed)]
Globs = Annotated[list[Text], BeforeValidator(one_or_more), Field(min_length=1, max_length=256)]
"""Patterns with `*`, `?` and `[…]`, one or a list of which one must fit."""
