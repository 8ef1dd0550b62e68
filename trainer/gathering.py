"""Brings the ranks of one job together: rank 0 to lead, the others to follow. Used where there are several, and may act."""

from __future__ import annotations

from itertools import count
from typing import Any

from ..core.clock import Clock
from .abilities import Abilities, shape_of
from .agreement import Leader, Member
from .attachment import Attachment
from .checkpoints import Checkpoints, Parts
from .cycle import steerings_of
from .effects import Effects
from .following import Following
from .keep_best import KeepBest
from .ranks import Seat, open_table
from .step_hooks import HOOKS
from .terms import Terms
from .voice import Voice

_ORDINALS = count()  # every rank attaches in the same order, so the n-th of one rank is the n-th of each


def next_table(seat: Seat) -> str:
    """The name under which the ranks of the next attachment find each other. An elastic launcher's store outlives its
    restarts, and what dead ranks said with it."""
    return f"{max(seat.restarts, 0)}.{next(_ORDINALS)}"


def lead(terms: Terms, parts: Parts, effects: Effects, table: str, voice: Voice, clock: Clock) -> Leader:
    """Rank 0's part of the agreement, in its own thread from here on."""
    abilities = Abilities(terms.mode, terms.allow, parts, effects)
    hello = {"run": terms.run, "attempt": terms.attempt, "model": shape_of(parts.model)}
    hello["checkpoints"] = str(effects.checkpoints.folder.absolute())
    leader = Leader(terms.seat, lambda: open_table(table), abilities.refuse, clock, voice, hello=hello)
    abilities.passes = lambda: leader.gate.count > 0
    leader.begin()
    return leader


def follow(terms: Terms, parts: Parts, table: str, attachment: Attachment, voice: Voice, clock: Clock) -> Following:
    """A rank above 0: it logs nothing and obeys what rank 0 was told, at the same step. Begins its thread and its hooks."""
    steerings = steerings_of(parts.optimizer, attachment.boundary)
    checkpoints = Checkpoints(terms.folder, terms.run, terms.attempt, parts, clock, terms.limits)
    effects = Effects(steerings, checkpoints, KeepBest(None, clock), _nobody, attachment.told_to_stop, min_lr=terms.min_lr)
    abilities = Abilities(terms.mode, terms.allow, parts, effects)
    following = Following(abilities, attachment.told_to_stop, clock, voice)

    def met(hello: dict[str, Any]) -> None:
        attachment.run, attachment.attempt = str(hello["run"]), str(hello["attempt"])
        following.met(hello)

    member = following.member = Member(terms.seat, lambda: open_table(table), abilities.refuse, clock, voice, met=met)
    abilities.passes = lambda: member.gate.count > 0
    member.begin()
    for steering in steerings:
        HOOKS.add(steering)
    return following


def _nobody(_step: int, _details: dict[str, Any]) -> None:
    """Rank 0 tells what was restored."""
