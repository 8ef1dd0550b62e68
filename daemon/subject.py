"""What a person asks about, and whether it is theirs to decide."""

from __future__ import annotations

import os
import pwd
from typing import NamedTuple

from .edge_line import Peer


class Subject(NamedTuple):
    """What a request is about, and whose it is."""

    run: str
    attempt: str
    group: str | None
    uid: int | None
    user: str | None


def user_name(uid: int) -> str:
    """The user's name on this host."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def is_operator(peer: Peer) -> bool:
    """Whether the person runs this daemon, or the host."""
    return peer.uid in (0, os.getuid())


def refusal(peer: Peer, subject: Subject) -> dict[str, str] | None:
    """Why this person may not decide about that run; None who may."""
    if is_operator(peer) or peer.uid == subject.uid:
        return None
    said = f"{user_name(peer.uid)} may not decide about a run of {subject.user}"
    return {"refused": said, "hint": "ask its owner or the operator"}
