"""Asking the daemon of a data directory something; what the command line does."""

from __future__ import annotations

import select
import shlex
import socket
from collections.abc import Mapping
from typing import Any

import msgspec

from ..core.clock import SystemClock
from ..core.errors import ConfigError, Forbidden, SmartTunerError, Unavailable, UsageError
from ..core.ports import Clock
from . import daemon_socket

MAX_ANSWER_CHARACTERS = 64 << 20
_ERRORS: Mapping[int, type[SmartTunerError]] = {
    kind.exit_code: kind for kind in (SmartTunerError, UsageError, ConfigError, Unavailable, Forbidden)
}


def ask(address: str, query: Mapping[str, Any], timeout_s: float = 5.0, clock: Clock | None = None) -> dict[str, Any]:
    """The daemon's answer to `query` ({"query": "status", …}). Unavailable where no daemon listens or none answers in
    `timeout_s`; an error of the daemon's is raised here as what it was there."""
    passing: Clock = clock or SystemClock()
    deadline = passing.monotonic() + timeout_s
    try:
        with daemon_socket.dial(address) as line:
            line.send(daemon_socket.packet(**query), socket.MSG_NOSIGNAL)
            text = _listen(line, address, deadline, passing)
    except (*daemon_socket.GONE, BrokenPipeError, ConnectionResetError) as error:
        hint = f"start one: smart-tuner daemon --data-dir {shlex.quote(address)}"
        raise Unavailable(f"no daemon listens in {address}", hint) from error
    except OSError as error:
        raise Unavailable(
            f"the daemon's socket in {address} cannot be used: {error.strerror}", "look at the folder's owner and permissions"
        ) from error
    try:
        answer = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Unavailable(f"the daemon's answer cannot be read: {error}", "is it of another version?") from error
    if "error" in answer:
        kind = _ERRORS.get(int(answer.get("exit_code", 1)), SmartTunerError)
        raise kind(str(answer["error"]), str(answer.get("hint", "")))
    return answer


def _listen(line: socket.socket, address: str, deadline: float, clock: Clock) -> str:
    readable = select.poll()
    readable.register(line, select.POLLIN)
    pieces: list[str] = []
    size, more = 0, True
    while more:
        if not readable.poll(max(0.0, deadline - clock.monotonic()) * 1000):
            raise Unavailable(f"the daemon in {address} does not answer", "it may be busy: try again, then see its log")
        data = line.recv(daemon_socket.MAX_PACKET_BYTES)
        said = daemon_socket.unpack(data)
        if said is None:
            raise Unavailable(f"the daemon in {address} hung up", "it may just have stopped: look at its log")
        if "refused" in said:
            raise Unavailable(f"the daemon refuses: {said['refused']}", str(said.get("hint", "")))
        pieces.append(str(said.get("data", "")))
        size += len(pieces[-1])
        more = bool(said.get("more"))
        if size > MAX_ANSWER_CHARACTERS:
            raise Unavailable(f"the daemon's answer is over {MAX_ANSWER_CHARACTERS} characters", "ask for less")
    return "".join(pieces)
