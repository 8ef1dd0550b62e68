"""Writes docs/schema.json, the JSON Schema of what travels: `.venv/bin/python docs/make_schema.py`."""

import json
import pathlib

from smarttuner.core.events import schema

PAGE = pathlib.Path(__file__).parent / "schema.json"


def text() -> str:
    """The schema as it stands in the file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
