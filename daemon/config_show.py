"""The configuration in force as people read it: YAML with the origin of each value, secrets masked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .config import Config
from .config_errors import Path

IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")


def masked(config: Config) -> dict[str, Any]:
    """The tree as plain values; secrets and what stands before the @ of an address are stars."""
    made = _masked(config.model_dump(mode="json"))
    assert isinstance(made, dict)
    return made


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_masked(one) for one in value]
    return IN_URL.sub("**********@", value) if isinstance(value, str) else value


def lines(tree: Mapping[str, Any], places: Mapping[Path, str], path: Path = ()) -> Iterator[str]:
    """The tree as lines of YAML. What is not set is left out: an empty line would name it."""
    indent = "  " * len(path)
    for name, value in tree.items():
        at: Path = (*path, name)
        if value is None:
            continue
        if isinstance(value, Mapping) and value:
            inner = list(lines(value, places, at))
            yield f"{indent}{_word(name)}:" + ("" if inner else " {}")
            yield from inner
            continue
        origin = next(
            (f"  # {places[at[:end]]}" for end in range(len(at), 0, -1) if at[:end] in places and _own(at[:end], places)), ""
        )
        yield f"{indent}{_word(name)}: {_flow(value)}{origin}"


def _own(path: Path, places: Mapping[Path, str]) -> bool:
    """Whether the value itself stands there, not a section around it."""
    return not any(other[: len(path)] == path and len(other) > len(path) and isinstance(other[-1], str) for other in places)


def _word(text: str) -> str:
    reserved = text.lower() in ("true", "false", "null", "yes", "no", "on", "off")
    return text if PLAIN.fullmatch(text) and not reserved else json.dumps(text, ensure_ascii=False)


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return _word(value) if isinstance(value, str) else json.dumps(value)
