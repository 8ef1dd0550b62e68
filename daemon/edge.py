"""The edge serves the jobs of this host: their socket, spools in, decisions out.

One thread reads the spools and the socket, one follows `control`, one answers questions. Nothing that a job or a stranger
sends ends the daemon or holds up another job.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .. import __version__
from ..bus import daemon_socket
from ..bus.directory import DirectoryLock
from ..bus.placements import Placements
from ..bus.process import pid_started
from ..bus.spool_file import is_running, memory_folder, opened_spool, own, spool_paths
from ..bus.spool_reader import SpoolReader, check_descriptor
from ..bus.trail import FleetTrail, SharedLog, Trail, WholeTrail
from ..bus.vigil import FIRST_S
from ..core.errors import CorruptData, Forbidden, SmartTunerError, Unavailable
from ..core.ports import Bus, Clock
from .edge_control import Follower
from .edge_limits import StreamLimits
from .edge_line import Line, Listener, Packet, Peer, raise_descriptor_limit
from .edge_queries import Answer, Queries
from .edge_stream import PROCESS_GONE, Stream
from .edge_streams import KEPT, Keeper, Streams, Surroundings
from .edge_watch import Watch

SCAN_S = 3.0
SETTLING_S = 2.0
"""So old is a spool that is opened by path while its job lives: it may be about to come by itself."""
GREETING_S = 10.0
STEP_S = 1.0
MAX_LINES = 20_000
CLOSING_S = 2.0
REST_FROM_S, REST_MOST_S, REST_LOG = 0.0005, 0.01, 4.0
"""After a turn that took longer than the first the edge rests as long as it took, but not for more than so many times what the
log took of it: behind a round trip what a thousand jobs say travels in a few hundred requests a second; a log on the same
host takes a word within half a millisecond, and a word that comes alone does not wait."""

Welcome = Callable[[Peer, Mapping[str, Any]], Mapping[str, Any]]
"""What a job is told when it comes (mode and the like); Forbidden turns it away."""


class Log(Protocol):
    """The bus's side of it: LocalLog or MemoryLog."""

    def connect(self) -> Bus: ...
    def mark(self, name: str) -> int | None: ...


@dataclass(frozen=True)
class EdgeSettings:
    """Where and how. `data_dir` is what jobs address; the socket lies there unless `socket_folder` says otherwise.
    `spool_folders` are the daemon's own user's: spools that wait in them are opened by path."""

    data_dir: str
    socket_folder: str | None = None
    socket_mode: int = 0o600
    spool_folders: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    """What else spools name that are for this daemon: the URL of its bus."""
    limits: StreamLimits = field(default_factory=StreamLimits)
    partitions: int = 1
    shared: SharedLog | None = None
    """The log, where many hosts share it: then only decisions of who owns their partition are obeyed."""
    keeper: Keeper | None = None
    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Descriptors that the keeper hands back, by name."""
    uid_of: Callable[[str], int | None] = lambda _attempt: None
    """The user of an attempt that this edge has not seen, where somebody knows."""
    silence_s: float = FIRST_S
    """From when on a silent job is told of."""


def _plain_welcome(_: Peer, __: Mapping[str, Any]) -> Mapping[str, Any]:
    return {}


class Edge:
    """`counters` and `spools()` are for status, from any thread. Unavailable or InUse if the socket cannot be had."""

    def __init__(
        self, bus_log: Log, settings: EdgeSettings, clock: Clock, answer: Answer, welcome: Welcome = _plain_welcome
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.settings = settings
        self._log, self._clock, self._welcome = bus_log, clock, welcome
        self._folder = settings.socket_folder or settings.data_dir
        self._addresses = {os.path.realpath(settings.data_dir), os.path.realpath(self._folder), *settings.addresses}
        self._own_folders = tuple(dict.fromkeys(os.path.realpath(one) for one in (*settings.spool_folders, memory_folder())))
        self._placements = Placements(clock, self.counters)
        self._follower = Follower(bus_log.connect, self._trail(), self._placements, clock, self.counters)
        self._queries = Queries(answer, self.counters)
        self._stopping = threading.Event()
        self._stop_timeout_s = 0.0
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge", daemon=True)
        self._failure: Unavailable | None = None
        self._lines: dict[int, Line] = {}

    def _trail(self) -> Trail:
        shared = self.settings.shared
        if shared is None:
            return WholeTrail(self._log.mark, self.settings.partitions)
        return FleetTrail(shared, lambda: self._streams.keys(), self._clock, self.counters)

    def start(self) -> None:
        """Opens the socket and starts the threads."""
        self.descriptor_limit = raise_descriptor_limit()
        self._lock = DirectoryLock(self._folder, "edge.lock", "the daemon's socket")
        try:
            self._listener = Listener(self._folder, self.settings.socket_mode)
        except BaseException:
            self._lock.release()
            raise
        self._watch = Watch(self._clock, self.counters)
        self._watch.watch(self._listener.fd, self._accept)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        self._follower.start()
        self._queries.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Reads what was written until now, at most for `timeout_s`, and closes the socket. The jobs write on into their
        spools. Idempotent."""
        if self._stopping.is_set() or not self._started.is_set() or self._failure is not None:
            return
        self._stop_timeout_s = timeout_s
        self._stopping.set()
        self._watch.wake()
        self._queries.stop(CLOSING_S)
        self._follower.stop(CLOSING_S)
        self._thread.join(timeout_s + CLOSING_S)
        if not self._thread.is_alive():
            self._watch.close()

    def place_orders(self) -> None:
        """Puts decisions that are on the log by now onto their jobs' pages, on the caller's thread."""
        self._follower.look()

    def spools(self) -> list[dict[str, Any]]:
        """A row for each attempt whose spool is read."""
        return self._streams.table() if self._thread.is_alive() else []

    @property
    def trouble(self) -> str:
        """Why nothing that jobs write can be put on the log, or no decision reaches them; "" while both work. For status, from
        any thread."""
        return (self._streams.trouble if self._thread.is_alive() else "") or self._follower.trouble

    @property
    def alive(self) -> bool:
        """Whether the edge's thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._bus = self._log.connect()
            self._streams = self._make_streams()
            self._take_kept()
        except Unavailable as error:
            self._failure = error
            self._listener.close()
            self._watch.close()
            self._lock.release()
            return
        finally:
            self._started.set()
        try:
            while not self._stopping.is_set():
                self._watch.step(0.0 if self._streams.busy else STEP_S)
                self._turn()
            self._drain()
        finally:
            self._close()

    def _turn(self) -> None:
        began = self._clock.monotonic()
        published = self._streams.turn()
        took = self._clock.monotonic() - began
        if published and took > REST_FROM_S:
            self._stopping.wait(min(took, REST_MOST_S, REST_LOG * self._streams.log_took_s))

    def _make_streams(self) -> Streams:
        self._watch.at(self._clock.monotonic(), self._scan)
        return Streams(
            Surroundings(
                bus=self._bus,
                mark=self._log.mark,
                clock=self._clock,
                watch=self._watch,
                placements=self._placements,
                counters=self.counters,
                limits=self.settings.limits,
                own_folders=self._own_folders,
                keeper=self.settings.keeper,
                uid_of=self.settings.uid_of,
                silence_s=self.settings.silence_s,
            )
        )

    def _take_kept(self) -> None:
        for name, descriptors in self.settings.kept.items():
            if not name.startswith(KEPT):
                continue
            try:
                self._streams.take_kept(descriptors)
            except (SmartTunerError, OSError):
                self.counters["spools_unreadable"] += 1

    def _drain(self) -> None:
        deadline = self._clock.monotonic() + self._stop_timeout_s
        self._streams.look_at_all()
        while self._streams.busy and self._clock.monotonic() < deadline:
            self._streams.turn()

    def _close(self) -> None:
        self._streams.disarm()
        for line in list(self._lines.values()):
            self._drop(line)
        self._listener.close()
        self._bus.close()
        self._lock.release()

    # the socket

    def _accept(self) -> None:
        while (line := self._listener.accept()) is not None:
            if len(self._lines) >= MAX_LINES:
                self.counters["lines_refused"] += 1
                line.connection.close()
                continue
            self._lines[line.fd] = line
            self._watch.watch(line.fd, lambda line=line: self._hear(line))  # type: ignore[misc]  # mypy: lambda's default
            self._watch.at(self._clock.monotonic() + GREETING_S, lambda line=line: self._expire(line))  # type: ignore[misc]

    def _hear(self, line: Line) -> None:
        if line.stream is not None:
            rang = line.rings()
            if rang:
                self._streams.rang(line.stream)
            elif rang is None:
                self._drop(line)
            return
        packet = line.receive()
        if packet is None:
            return
        try:
            if not packet.data and not packet.descriptors:
                self._drop(line)
            else:
                self._first_words(line, packet)
        finally:
            packet.drop()

    def _first_words(self, line: Line, packet: Packet) -> None:
        said = daemon_socket.unpack(packet.data)
        if said is None or not isinstance(said.get("v"), int) or said["v"] < 1:
            self.counters["strangers"] += 1
            self._turn_away(line, "this is not Smart Tuner's protocol", "see docs/jobs.md")
        elif packet.cut:
            self.counters["descriptors_cut"] += 1
            hint = "raise LimitNOFILE= of the service, and look whether SELinux or AppArmor forbids passing descriptors"
            self._turn_away(line, "the descriptors that came with it did not arrive", hint)
        elif "query" in said:
            line.known = True
            self._queries.submit(line, said)
        elif said.get("kind") in ("hello", "leftover"):
            self._take(line, said, packet.descriptors)
        else:
            self.counters["strangers"] += 1
            self._turn_away(line, f"unknown kind of greeting {said.get('kind')!r}", "upgrade the daemon")

    def _take(self, line: Line, said: dict[str, Any], descriptors: list[int]) -> None:
        try:
            told = self._welcome(line.peer, said)
            if said["kind"] == "hello":
                self._streams.greet(line, said, descriptors)
            else:
                self._take_leftover(line, said, descriptors)
        except (Forbidden, CorruptData) as error:
            self.counters["greetings_refused"] += 1
            self._turn_away(line, error.message, error.hint)
            return
        line.known = True
        line.say(
            daemon_socket.packet(**{**told, "v": min(said["v"], daemon_socket.PROTOCOL), "daemon": __version__, "pid": os.getpid()})
        )

    def _take_leftover(self, line: Line, said: Mapping[str, Any], descriptors: list[int]) -> None:
        """A dead job's spool from the folder of a user whom this daemon cannot read."""
        if not descriptors:
            raise Forbidden("a leftover without a spool", "the descriptor did not come with it")
        check_descriptor(descriptors[0], line.peer.uid, said.get("bytes"))
        reader = SpoolReader(descriptors[0])
        if is_running(reader.identity):
            raise Forbidden("the job of this spool lives", "it hands it over itself")
        if reader.identity.attempt not in self._streams and not reader.drained:
            stream = self._streams.adopt(reader, line.peer.uid)
            del descriptors[0]
            self._streams.end(stream, PROCESS_GONE)

    def _turn_away(self, line: Line, reason: str, hint: str) -> None:
        line.say(daemon_socket.packet(refused=reason, hint=hint))
        self._drop(line)

    def _expire(self, line: Line) -> None:
        if not line.known and self._lines.get(line.fd) is line:
            self.counters["strangers"] += 1
            self._drop(line)

    def _drop(self, line: Line) -> None:
        if self._lines.get(line.fd) is not line:
            return
        del self._lines[line.fd]
        self._watch.forget(line.fd)
        line.connection.close()
        if line.stream is not None:
            self._streams.hung_up(line.stream, line)

    # spools that wait in the daemon's own user's folders

    def _scan(self) -> None:
        self._watch.at(self._clock.monotonic() + SCAN_S, self._scan)
        for folder in self._own_folders:
            for attempt, path in spool_paths(folder):
                if attempt not in self._streams:
                    try:
                        self._take_path(path)
                    except FileNotFoundError:  # its own job has just unlinked it
                        pass
                    except (SmartTunerError, OSError) as error:
                        self._streams.cannot_read(path, error)

    def _take_path(self, path: str) -> None:
        fd, identity = opened_spool(path)
        running = is_running(identity)
        try:
            reader = SpoolReader(fd)
            ours = identity.address in self._addresses or os.path.realpath(identity.address) in self._addresses
            if not ours or (running is not False and self._clock.now() - identity.created < SETTLING_S):
                return
            if not own(fd):  # its job, or another job of this user, ships it itself
                return
            if reader.drained:
                if running is False:
                    os.unlink(path)
                    self.counters["spools_removed"] += 1
                return
            stream = self._streams.adopt(reader, os.geteuid(), path=path)
            fd = -1
        finally:
            if fd >= 0:
                os.close(fd)
        if running is False:
            self._streams.end(stream, PROCESS_GONE)
        elif running:
            self._guard(stream)

    def _guard(self, stream: Stream) -> None:
        try:
            pidfd = os.pidfd_open(stream.identity.pid)
        except OSError:
            return
        if pid_started(stream.identity.pid) != stream.identity.pid_started:
            os.close(pidfd)
            self._streams.end(stream, PROCESS_GONE)
        else:
            self._streams.guard(stream, pidfd)
