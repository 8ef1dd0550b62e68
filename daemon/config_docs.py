"""What is published about the configuration: the JSON Schema for editors and the table of keys in docs/configuration.md.

`python -m smarttuner.daemon.config_docs DOCS_FOLDER` writes both; a test holds that they are current.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from .config import Config
from .config_acting import TABLE
from .config_keys import Key, keys

BEGIN, END = "<!-- the keys, written by python -m smarttuner.daemon.config_docs docs -->", "<!-- end of the keys -->"
INTERPOLATED = {"type": "string", "pattern": r"\$\{"}


class _EditorSchema(GenerateJsonSchema):
    """Where a number, a flag or a choice belongs, `${VARIABLE}` may stand too."""

    def int_schema(self, schema: Any) -> JsonSchemaValue:
        return {"anyOf": [super().int_schema(schema), INTERPOLATED]}

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), INTERPOLATED]}

    def bool_schema(self, schema: Any) -> JsonSchemaValue:
        return {"anyOf": [super().bool_schema(schema), INTERPOLATED]}

    def literal_schema(self, schema: Any) -> JsonSchemaValue:
        return {"anyOf": [super().literal_schema(schema), INTERPOLATED]}


def json_schema() -> dict[str, Any]:
    """The schema of a configuration file (JSON Schema 2020-12)."""
    made = Config.model_json_schema(schema_generator=_EditorSchema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Smart Tuner configuration"} | made


def schema_text() -> str:
    """The schema as docs/config.schema.json holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def key_table() -> str:
    """A Markdown table a section: key, meaning, what it takes, default, whether it acts."""
    lines: list[str] = []
    section = ""
    for one in keys(Config):
        if one.path[0] != section:
            section = one.path[0]
            lines += ["", f"### {section}", "", "| key | meaning | takes | default | acts |", "| --- | --- | --- | --- | --- |"]
        lines.append(_line(one))
    return "\n".join(lines).strip()


def _line(one: Key) -> str:
    row = next(row for row in TABLE if row.covers(one.path))
    takes = f"{one.kind} ({one.unit})" if one.unit else one.kind
    shown = one.path[2:] if one.path[:2] == ("watch", "*") else one.path[1:]
    name = ".".join("NAME" if word == "*" else word for word in shown)
    default = f"`{one.default}`" if one.default not in ("", "required") else one.default
    cells = (f"`{name or one.path[0]}`", one.meaning, takes, default, row.missing or "yes")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(text: str) -> str:
    """The page with its table of keys made anew."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{key_table()}\n\n{END}{tail}"


def main(folder: pathlib.Path) -> None:
    """Writes config.schema.json and the table of configuration.md."""
    (folder / "config.schema.json").write_text(schema_text())
    text = folder / "configuration.md"
    text.write_text(page(text.read_text()))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
