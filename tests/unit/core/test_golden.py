"""Messages of every released version, as they stood on the wire. Add to golden/v1 with each release; change none."""

import importlib.util
import json
import pathlib

import jsonschema
import pytest
from smarttuner.core import events

HERE = pathlib.Path(__file__).parent
DOCS = HERE.parents[2] / "docs"
GOLDEN = sorted((HERE / "golden").glob("v*/*.json"))
KINDS = {events.MetricChunk, events.RunEvent, events.Decision, events.Ack, events.Notice, events.Request, events.Claim}


def published():
    return jsonschema.Draft202012Validator(json.loads((DOCS / "schema.json").read_text()))


def test_there_is_a_golden_message_of_each_kind_and_each_run_event():
    decoded = [events.decode(path.read_bytes()) for path in GOLDEN]
    assert {type(event) for event in decoded} == KINDS
    assert {event.event for event in decoded if isinstance(event, events.RunEvent)} == {"started", "ended", "restored", "note"}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_golden_message_decodes_and_loses_nothing(path):
    body = path.read_bytes()
    assert json.loads(events.encode(events.decode(body))) == json.loads(body)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_published_schema_describes_a_golden_message(path):
    body = json.loads(path.read_bytes())
    published().validate(body)
    published().validate({**body, "a field of a later version": 1})
    wrong = {**body, "run": 7, "what": 7, "epoch": "x"}
    assert not published().is_valid(wrong)
    assert "v" in body


def test_the_published_schema_is_current():
    spec = importlib.util.spec_from_file_location("make_schema", DOCS / "make_schema.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert (DOCS / "schema.json").read_text(encoding="utf-8") == made.text(), "run: .venv/bin/python docs/make_schema.py"


def test_the_published_schema_refuses_what_is_no_event():
    for body in ({}, [], {"kind": "metrics"}, {"kind": "notice", "what": "x", "text": "y", "time": "soon"}):
        assert not published().is_valid(body)
