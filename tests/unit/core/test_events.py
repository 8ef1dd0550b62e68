import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from smarttuner.core import events
from smarttuner.core.errors import CorruptData


def chunk(**changes):
    base = events.MetricChunk("r", "a", "sdk", 10, [events.Series("loss", [1, 2], [0.5, 0.25], [1.0, 2.0])])
    return msgspec.structs.replace(base, **changes)


def test_not_finite_numbers_travel_as_words():
    sent = chunk(series=[events.Series("x", [1, 2, 3], [math.nan, math.inf, -math.inf], [0.0, 0.0, 0.0])])
    body = events.encode(sent)
    assert b'"NaN","Infinity","-Infinity"' in body
    assert [float(x) for x in events.decode(body).series[0].values][1:] == [math.inf, -math.inf]


def test_unknown_fields_are_ignored_and_unknown_majors_are_not():
    body = events.encode(chunk())
    assert events.decode(body[:-1] + b',"later":1}') == chunk()
    with pytest.raises(CorruptData, match="version 7"):
        events.decode(body.replace(b'"v":1', b'"v":7'))
    with pytest.raises(CorruptData, match="version 9"):
        events.decode(b'{"v":9,"kind":"something new"}')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"kind":"metrics"}',
        b"[" * 100_000,
        b'{"kind":"metrics","run":"","attempt":"a","source":"s","seq":0,"series":[]}',
        b"x" * 300_000,
    ],
)
def test_bytes_that_are_no_event_are_corrupt_data(body):
    with pytest.raises(CorruptData):
        events.decode(body)


def test_unequal_columns_and_positions_that_do_not_rise_are_corrupt_data():
    with pytest.raises(CorruptData, match="unequal"):
        events.decode(events.encode(chunk(series=[events.Series("x", [1], [1.0, 2.0], [1.0])])))
    with pytest.raises(CorruptData, match="rise strictly"):
        events.decode(events.encode(chunk(series=[events.Series("x", [1, 2], [1.0, 2.0], [1.0, 2.0], [3, 3])])))


def points(one):
    return sorted((p, s.name, s.steps[i], s.values[i], s.times[i]) for s, at in one.positions() for i, p in enumerate(at))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(400, 4000))
def test_a_split_chunk_keeps_every_point_and_its_position(lengths, limit):
    series = [
        events.Series(f"s{i}", list(range(n)), [0.1 * j for j in range(n)], [1e9 + j for j in range(n)])
        for i, n in enumerate(lengths)
    ]
    whole = chunk(series=series)
    bodies = list(events.encode_chunks(whole, limit))
    parts = [events.decode(body) for body in bodies]
    assert all(len(body) <= limit or part.points() == 1 for body, part in zip(bodies, parts, strict=True))
    assert sorted(p for part in parts for p in points(part)) == points(whole)


def test_ids_name_the_conclusion_and_nothing_else():
    one = events.decision_id("r", "a", "patience", 1, "prune", "sdk:9")
    assert one == events.decision_id("r", "a", "patience", 1, "prune", "sdk:9")
    assert one != events.decision_id("r", "a", "patience", 2, "prune", "sdk:9")


def test_intents_scale_the_hold_if_one_is_set_else_the_multiplier():
    start = events.LrIntent()
    assert start.scaled(0.5) == events.LrIntent(0.5, None, 1)
    assert start.held(0.1).scaled(0.5) == events.LrIntent(1.0, 0.05, 2)
    assert start.scaled(0.5).held(0.1).released() == events.LrIntent(1.0, None, 3)


def test_the_schema_describes_each_kind():
    assert set(events.schema()["$defs"]) >= {"MetricChunk", "RunEvent", "Decision", "Ack", "Notice", "Request"}
