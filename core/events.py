"""The five things that travel (MetricChunk, RunEvent, Decision, Ack, Notice), a person's Request, and their envelope.

Every body is one JSON object with `v` (the major version of its form) and `kind`. Readers ignore fields they do not know;
a major they do not know is CorruptData. JSON has no NaN or infinity: they travel as "NaN", "Infinity", "-Infinity".
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from operator import lt
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from .errors import CorruptData
from .intent import LrIntent

VERSION = 1
MAX_BODY_BYTES = 256 * 1024
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Goal = Literal["min", "max"]
Mode = Literal["act", "observe"]
Status = Literal["pending", "would", "applied", "refused", "expired", "failed"]
NotFinite = Literal["NaN", "Infinity", "-Infinity"]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Step = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


def _version() -> int:
    return VERSION  # a factory, since a plain default would be left out of the body, and every body has `v`


class Series(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Points of one series as columns of equal length n.

    `at[i]` is the position of point i behind the chunk's `seq` and rises strictly; without it the points of a chunk are
    numbered in the order in which they stand there, series after series.
    """

    name: Name
    steps: list[Step]
    values: list[float | NotFinite]
    times: list[float]
    at: list[Count] | None = None


class MetricChunk(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="kind", tag="metrics"):
    """Points of one run, one attempt, one source. `seq` is the position of its first point in its source: a point keeps
    its position however the points are cut into chunks, and (attempt, source, position) names it for ever."""

    run: Name
    attempt: Name
    source: Name
    seq: Count
    series: list[Series]
    group: str | None = None
    v: int = msgspec.field(default_factory=_version)

    def positions(self, of: Container[str] | None = None) -> Iterator[tuple[Series, Sequence[int]]]:
        """Each series (or those named in `of`) with the positions of its points in the source."""
        following = self.seq
        for one in self.series:
            if of is None or one.name in of:
                if one.at is None:
                    yield one, range(following, following + len(one.steps))
                else:
                    yield one, list(map(self.seq.__add__, one.at))
            following += len(one.steps)

    def points(self) -> int:
        """How many points the chunk holds."""
        return sum(len(one.steps) for one in self.series)


class Started(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job says of itself when an attempt begins; `pid_started` is in clock ticks since boot (proc(5), field 22), `lr`
    what it has in force from the attempt that it goes on from, `source` what tells of it where that is not the SDK, `groups` how
    each optimizer's parameter groups are called, in order: empty where a group has its number only, and left out where all
    have."""

    host: str = ""
    user: str = ""
    uid: int = -1
    boot_id: str = ""
    pid: int = 0
    pid_started: int = 0
    world_size: int = 1
    parent: str | None = None
    resume_from_step: int | None = None
    total_steps: int | None = None
    monitor: str | None = None
    goal: Goal | None = None
    mode: Mode = "act"
    allow: list[str] = []
    policies: dict[str, dict[str, Any]] = {}
    tags: dict[str, Any] = {}
    config: dict[str, Any] = {}
    keeps_best: bool = False
    script: str = ""
    sdk: str = ""
    source: str = ""
    lr: LrIntent | None = None
    groups: dict[str, list[str]] = {}


class RunEvent(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="run"):
    """Something that happened to an attempt. `seq` is its position in its source, which makes a repetition harmless.

    started: `started` is set. ended: `state` is finished, pruned, failed or lost and `ended_by` says by what.
    restored: weights of `step` were put back. note: something worth telling, in `text`.
    """

    run: Name
    attempt: Name
    event: Literal["started", "ended", "restored", "note"]
    time: float
    seq: int = -1
    group: str | None = None
    step: int | None = None
    started: Started | None = None
    state: Literal["finished", "pruned", "failed", "lost"] | None = None
    ended_by: str | None = None
    text: str = ""
    details: dict[str, Any] = {}
    v: int = msgspec.field(default_factory=_version)


ACTIONS = ("scale-lr", "set-lr", "release-lr", "checkpoint", "restore", "keep-best", "prune", "alert")


class Decision(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="decision"):
    """What was concluded about an attempt, with the evidence it was concluded from. `trigger` names what made it so: the
    (source, seq) of the first point at which the condition holds, or a person's request."""

    id: str
    run: Name
    attempt: Name
    action: str
    policy: str
    trigger: str
    reason: str
    time: float
    not_after: float
    policy_version: int = 1
    step: int | None = None
    params: dict[str, Any] = {}
    evidence: dict[str, Any] = {}
    mode: Mode = "observe"
    status: Status = "pending"
    refused_by: str | None = None
    group: str | None = None
    by: str | None = None
    epoch: int = 0
    v: int = msgspec.field(default_factory=_version)

    def __repr__(self) -> str:
        return f"Decision({self.action}, reason={self.reason!r})"


class Ack(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="ack"):
    """The answer to decision `id`: what happened, at which step, and the value before and after."""

    id: str
    run: Name
    attempt: Name
    status: Literal["applied", "refused", "expired", "failed"]
    time: float
    seq: int = -1
    group: str | None = None
    step: int | None = None
    before: Any = None
    after: Any = None
    reason: str = ""
    by: str = "job"
    v: int = msgspec.field(default_factory=_version)


class Notice(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="notice"):
    """A line for people: a loss, a counter crossed, a lane down, an alert. `what` is a short stable word to count by."""

    what: str
    text: str
    time: float
    level: Literal["info", "warning", "alert"] = "warning"
    run: str | None = None
    attempt: str | None = None
    group: str | None = None
    count: int = 1
    v: int = msgspec.field(default_factory=_version)


class Request(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="request"):
    """A person asks for a decision about a run; it passes the same gates as a policy's."""

    id: str
    run: Name
    action: str
    by: str
    time: float
    params: dict[str, Any] = {}
    reason: str = ""
    attempt: str | None = None
    group: str | None = None
    v: int = msgspec.field(default_factory=_version)


class Claim(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="claim"):
    """Stands on `control`: `daemon` judges this partition from here on, under `epoch`. A decision that follows a claim of a
    higher epoch than its own is stale: whoever sent it had lost the partition and did not know it yet."""

    partition: int
    epoch: int
    daemon: str
    time: float
    v: int = msgspec.field(default_factory=_version)


Event = MetricChunk | RunEvent | Decision | Ack | Notice | Request | Claim
E_ = TypeVar("E_", bound=Event)


class _Head(msgspec.Struct):
    v: int = 0


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_head: msgspec.json.Decoder[_Head] = msgspec.json.Decoder(_Head)


def decision_id(run: str, attempt: str, policy: str, version: int, action: str, trigger: str) -> str:
    """The same conclusion from the same point has the same id in every replay (20 hex digits of SHA-256)."""
    text = "\x00".join((run, attempt, f"{policy}@{version}", action, trigger))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def topic_key(run: str, group: str | None) -> str:
    """Topics are keyed by the run's group, a run without one by itself, so that peers share a partition and an owner."""
    return group or run


def spell(value: float | str) -> float | NotFinite:
    """The value as JSON can hold it."""
    if isinstance(value, str) or math.isfinite(value):
        return value  # type: ignore[return-value]  # a str here is one of NotFinite already
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _spelled(tree: Any) -> Any:
    """`tree` with every float that JSON cannot hold spelled as a word."""
    if isinstance(tree, float):
        return spell(tree)
    if isinstance(tree, Mapping):
        return {key: _spelled(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_spelled(value) for value in tree]
    return tree


def encode(event: Event) -> bytes:
    """One event as its JSON body. A MetricChunk may be over the limit: use `encode_chunks` where that can be."""
    if isinstance(event, MetricChunk):
        rows = [
            s if _all_finite(s.values) else msgspec.structs.replace(s, values=[spell(x) for x in s.values]) for s in event.series
        ]
        return _encoder.encode(msgspec.structs.replace(event, series=rows))
    if isinstance(event, Decision):
        event = msgspec.structs.replace(event, params=_spelled(event.params), evidence=_spelled(event.evidence))
    elif isinstance(event, Ack):
        event = msgspec.structs.replace(event, before=_spelled(event.before), after=_spelled(event.after))
    elif isinstance(event, Request):
        event = msgspec.structs.replace(event, params=_spelled(event.params))
    elif isinstance(event, RunEvent):
        event = msgspec.structs.replace(event, details=_spelled(event.details))
        if event.started is not None:
            said = msgspec.structs.replace(
                event.started, **{k: _spelled(getattr(event.started, k)) for k in ("policies", "tags", "config")}
            )
            event = msgspec.structs.replace(event, started=said)
    return _encoder.encode(event)


def _all_finite(values: list[float | NotFinite]) -> bool:
    try:
        return math.isfinite(math.fsum(values))  # type: ignore[arg-type]  # a word raises TypeError
    except (TypeError, OverflowError, ValueError):
        return False


def encode_chunks(chunk: MetricChunk, limit: int = MAX_BODY_BYTES) -> Iterator[bytes]:
    """The bodies of a chunk, split in half (points keep their positions) until each is at most `limit` bytes."""
    body = encode(chunk)
    if len(body) <= limit or chunk.points() <= 1:
        yield body
        return
    for half in halves(chunk):
        yield from encode_chunks(half, limit)


def halves(chunk: MetricChunk) -> tuple[MetricChunk, MetricChunk]:
    """The chunk cut at its middle position; every point keeps its position in the source."""
    rows = [(one, positions) for one, positions in chunk.positions()]
    order = sorted(position for _, positions in rows for position in positions)
    middle = order[len(order) // 2]
    sides: tuple[list[Series], list[Series]] = ([], [])
    starts = (order[0], middle)
    for one, positions in rows:
        cut = sum(position < middle for position in positions)
        for side, part in ((0, slice(0, cut)), (1, slice(cut, None))):
            kept = positions[part]
            if kept:
                sides[side].append(
                    Series(one.name, one.steps[part], one.values[part], one.times[part], [p - starts[side] for p in kept])
                )
    first, second = (msgspec.structs.replace(chunk, seq=starts[side], series=sides[side]) for side in (0, 1))
    return first, second


def decode(body: bytes) -> Event:
    """The event in a body; CorruptData says what is wrong with bytes that hold none."""
    if len(body) > MAX_BODY_BYTES:
        raise CorruptData(f"a body of {len(body)} bytes is over the limit of {MAX_BODY_BYTES}", "split the chunk at its source")
    try:
        event = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(_why(body, str(error)), "docs/schema.json describes what travels") from error
    if event.v != VERSION:
        raise CorruptData(
            f"version {event.v} is not known here (this is {VERSION})", "upgrade the daemon, then retry the dead letter"
        )
    if isinstance(event, MetricChunk):
        _check(event)
    return event


def _why(body: bytes, error: str) -> str:
    try:
        version = _head.decode(body).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"not an event: {error}"
    return f"version {version} is not known here (this is {VERSION})" if version > VERSION else f"not an event: {error}"


def _check(chunk: MetricChunk) -> None:
    for one in chunk.series:
        if not len(one.steps) == len(one.values) == len(one.times):
            raise CorruptData(f"series {one.name!r}: columns of unequal length", "give each point a step, a value and a time")
        if one.at is not None and (len(one.at) != len(one.steps) or not all(map(lt, one.at, one.at[1:]))):
            raise CorruptData(
                f"series {one.name!r}: `at` must rise strictly, one for each point", "leave `at` out to number points in order"
            )


def decode_as(body: bytes, form: type[E_]) -> E_:
    """`decode`, and CorruptData when the body holds another kind of event."""
    event = decode(body)
    if not isinstance(event, form):
        raise CorruptData(f"a {type(event).__name__} where a {form.__name__} belongs", "publish it to its own topic")
    return event


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of all that travels; docs/schema.json is this."""
    (reference,), components = msgspec.json.schema_components([Event], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Smart Tuner events",
        **reference,
        "$defs": components,
    }
