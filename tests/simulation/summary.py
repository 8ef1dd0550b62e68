"""What a finished world left behind, as plain values to compare: the log, the judge's state, the jobs, the Parquet files.

Left out is what may differ after a kill: offsets (an outbox that is sent again takes some), how often an answer that
carries an id stands on the log (at least once), and the offsets that dead letters name.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import stored
from script import BASE, Script, script_of
from smarttuner.bus.local import LocalLog
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import CorruptData
from smarttuner.core.events import Ack, Decision, Notice, decode
from smarttuner.core.ports import CONTROL, DEAD_LETTERS, METRICS, NOTICES, RUNS, TOPICS, Record
from smarttuner.daemon.state import State

Summary = dict[str, Any]
LAST = BASE + 1e6


def summary(folder: str, seed: int) -> Summary:
    """Everything that must be the same as undisturbed, and `broken`: what must not be in any world."""
    script = script_of(seed)
    clock = ManualClock(LAST)
    log = LocalLog(folder, clock, script.partitions, housekeeping=False)
    try:
        records = {topic: _all(log, topic) for topic in TOPICS}
    finally:
        log.close()
    found = {**_told(records), **_state(folder, clock), **_jobs(folder, script)}
    frames = stored.frames(folder)
    found |= {name: stored.rows(frame) for name, frame in frames.items()}
    found["broken"] += stored.broken(frames["metrics"], records[METRICS])
    return {name: plain(value) for name, value in found.items()}


def _all(log: LocalLog, topic: str) -> list[Record]:
    bus = log.connect()
    found: list[Record] = []
    while batch := bus.poll([topic], f"summary {topic}", lambda partition: 0, 10_000).records:
        found += batch
    bus.close()
    return found


def _told(records: dict[str, list[Record]]) -> Summary:
    control, runs = _events(records[CONTROL]), _events(records[RUNS])
    decisions: dict[str, Any] = {}
    broken = []
    for event in control:
        if isinstance(event, Decision):
            before = decisions.setdefault(event.id, event)
            if before != event:
                broken.append(f"decision {event.id} has two forms")
    acks = [event for event in runs if isinstance(event, Ack)]
    for one in acks:
        if one.id not in decisions:
            broken.append(f"an ack of a decision that nobody made: {one.id}")
    return {
        "broken": broken,
        "decided": [msgspec.to_builtins(one) for one in decisions.values()],
        "acks": _distinct([record for record, event in zip(records[RUNS], runs, strict=True) if isinstance(event, Ack)]),
        "notices": _distinct([r for r in records[NOTICES] if "@" not in _text(r)]),
        "dead_letters": sorted({record.body.hex() for record in records[DEAD_LETTERS]}),
    }


def _events(records: list[Record]) -> list[Any]:
    found = []
    for record in records:
        try:
            found.append(decode(record.body))
        except CorruptData:
            found.append(None)
    return found


def _text(record: Record) -> str:
    event = decode(record.body)
    return event.text if isinstance(event, Notice) else ""


def _distinct(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(record.body.decode() for record in records))


def _state(folder: str, clock: ManualClock) -> Summary:
    state = State(os.path.join(folder, "state.db"), clock)
    try:
        attempts, body = state.load()
        unsent = [message.body.decode() for _, message in state.unsent()]
    finally:
        state.close()
    return {
        "attempts": {name: msgspec.msgpack.decode(one) for name, one in sorted(attempts.items())},
        "judge": msgspec.msgpack.decode(body) if body else None,
        "unsent": unsent,
    }


def _jobs(folder: str, script: Script) -> Summary:
    found = {}
    for one in script.sources:
        path = os.path.join(folder, f"{one.attempt}.applied")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                found[one.attempt] = file.read().splitlines()
    return {"applied": found}


def plain(tree: Any) -> Any:
    """Values that compare equal to themselves and survive JSON: NaN and bytes as words."""
    if isinstance(tree, float) and tree != tree:
        return "NaN"
    if isinstance(tree, bytes):
        return tree.hex()
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    return tree


def differences(undisturbed: Any, found: Any, path: str = "") -> list[str]:
    """Where two summaries differ, one line a place, at most ten."""
    if type(undisturbed) is type(found):
        if isinstance(undisturbed, dict):
            keys = [*undisturbed, *(key for key in found if key not in undisturbed)]
            parts = [differences(undisturbed.get(key), found.get(key), f"{path}/{key}") for key in keys]
            return [line for part in parts for line in part][:10]
        if isinstance(undisturbed, list) and undisturbed != found:
            for n, (one, other) in enumerate(zip(undisturbed, found, strict=False)):
                if one != other:
                    return differences(one, other, f"{path}[{n}]")
            return [f"{path}: {len(undisturbed)} undisturbed, {len(found)} now: {str((undisturbed + found)[-1])[:200]}"]
    return [] if undisturbed == found else [f"{path}: {str(undisturbed)[:300]} undisturbed, {str(found)[:300]} now"]
