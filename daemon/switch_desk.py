"""Takes a person's word to pause, resume, hold and unhold, and puts it onto the log of every partition.

A run's switch goes to all partitions too: it is the run's, and a later attempt of it may name another group, which belongs
to another partition. Each copy is folded in its own partition's order, wherever that is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec

from ..bus.partitions import key_of, partition_of
from ..core.errors import UsageError
from ..core.events import Request, encode, topic_key
from ..core.ports import CONTROL, Bus, Clock, Message
from ..core.registry import did_you_mean
from ..core.switches import ALL, ENDS, SWITCHING, Kind, Switch, Switches, wrong_length
from ..core.ulid import ulid
from .edge_line import Peer
from .subject import Subject, is_operator, refusal, user_name

Answer = dict[str, Any]


class SwitchDesk:
    """`partitions` is how many the log has, `judged` which of them are judged here. One thread at a time."""

    def __init__(self, switches: Switches, bus: Bus, clock: Clock, partitions: int, judged: Callable[[], Collection[int]]) -> None:
        self._switches, self._bus, self._clock = switches, bus, clock
        self._partitions, self._judged = partitions, judged

    def shown(self) -> list[dict[str, Any]]:
        """What is switched off now, for status."""
        return [one.plain() for one in self._switches.now(self._clock.now())]

    def control(self, partition: int, run: str) -> str | None:
        """What `runs` shows of a run that is switched off: paused, held, or both."""
        now = self._clock.now()
        words: dict[Kind, str] = {"pause": "paused", "hold": "held"}
        found = [word for kind, word in words.items() if self._switches.over(partition, kind, run, now)]
        return " and ".join(found) or None

    def told(self, run: str) -> list[str]:
        """What a job of the run should say when it comes: that it is switched off, by whom and why."""
        words = {"pause": "paused", "hold": "held"}
        mine = [one for one in self._switches.now(self._clock.now()) if one.run in (ALL, run)]
        return [f"{words[one.kind]}: {one.sentence}" for one in mine]

    def in_force(self, query: Answer) -> Answer:
        """Whether the request is folded in all partitions that are judged here; None where none is."""
        judged = set(self._judged())
        return {"in_force": judged <= self._switches.heard(str(query.get("request"))) if judged else None}

    def switch(self, query: Answer, peer: Peer, find: Callable[[str], Subject | None]) -> Answer | None:
        """Puts the request onto the log if this person may; None where nobody knows the run."""
        action = str(query.get("action", ""))
        if action not in SWITCHING:
            raise UsageError(f"no switch is called {action!r}", did_you_mean(action, list(SWITCHING)))
        everyone = bool(query.get("all"))
        if everyone and action in ("hold", "unhold"):
            raise UsageError("a hold is of one run", "smart-tuner pause --all keeps every policy from acting")
        run = ALL if everyone else str(query.get("run", ""))
        subject = None if everyone else find(run)
        refused = self._refused(action, run, peer, subject)
        if refused is not None:
            return refused or None
        group = subject.group if subject is not None else None
        return self._send(Request(ulid(self._clock.now()), run, action, user_name(peer.uid), self._clock.now(), _params(query),
                                  str(query.get("reason") or ""), group=group))  # fmt: skip

    def _refused(self, action: str, run: str, peer: Peer, subject: Subject | None) -> Answer | None:
        """Why not; empty where nobody knows the run."""
        kind = ENDS.get(action) or action
        own, everyone = self._find(kind, run), self._find("pause", ALL)
        if run == ALL:
            if is_operator(peer):
                return None
            return {
                "refused": f"{user_name(peer.uid)} may not {action} the runs of all",
                "hint": f"smart-tuner {action} RUN for your own",
            }
        if subject is not None:
            if (said := refusal(peer, subject)) is not None:
                return said
        elif own is None:
            return {}
        elif not is_operator(peer) and own.by != user_name(peer.uid):
            return {"refused": f"{user_name(peer.uid)} may not end what {own.by} switched", "hint": "ask them or the operator"}
        if action == "resume" and own is None and everyone is not None:
            return {"refused": f"{run} is not paused by itself: {everyone.sentence}", "hint": "smart-tuner resume --all"}
        return None

    def _find(self, kind: str, run: str) -> Switch | None:
        return next((one for one in self._switches.now(self._clock.now()) if (one.kind, one.run) == (kind, run)), None)

    def _send(self, request: Request) -> Answer:
        kind: Kind = ENDS.get(request.action) or ("pause" if request.action == "pause" else "hold")
        before, everyone = self._find(kind, request.run), self._find("pause", ALL)
        home = 0 if request.run == ALL else partition_of(topic_key(request.run, request.group), self._partitions)
        self._bus.publish([
            Message(CONTROL, key_of(number, self._partitions), encode(request if number == home else _copy(request)))
            for number in range(self._partitions)
        ])  # fmt: skip
        stays = everyone if request.action == "resume" and request.run != ALL else None
        return {
            "request": request.id, "action": request.action, "run": None if request.run == ALL else request.run,
            "by": request.by, "reason": request.reason, "for_s": request.params.get("for_s"),
            "was": before.plain() if before else None, "stays": stays.sentence if stays else None,
        }  # fmt: skip


def _params(query: Answer) -> Answer:
    length_s = query.get("for_s")
    if wrong := wrong_length(length_s):
        raise UsageError(wrong, "two hours are 7200")
    return {} if length_s is None else {"for_s": length_s}


def _copy(request: Request) -> Request:
    return msgspec.structs.replace(request, params={**request.params, "copied": True})
