"""All spools that this daemon reads: fairly, in order, onto the bus; and the end of each attempt."""

from __future__ import annotations

import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..bus.placements import Placements
from ..bus.shipper import Shipper, mark_name
from ..bus.spool_file import is_running
from ..bus.spool_layout import Truncated
from ..bus.spool_reader import SpoolReader, check_descriptor
from ..bus.vigil import FIRST_S
from ..core.errors import CorruptData, Forbidden, Unavailable
from ..core.events import encode
from ..core.ports import METRICS, RUNS, Bus, Clock, Message
from .edge_limits import Allowance, StreamLimits
from .edge_line import Line
from .edge_stream import HUNG_UP, PROCESS_GONE, Stream
from .edge_vigils import Vigils
from .edge_voice import Voice
from .edge_watch import Watch

log = logging.getLogger("smarttuner.edge")

REARM_S = 0.020
"""A bell costs its job 50 to 180 µs on a full machine. So long it rests; who logs often is looked at again then, without one."""
LOOK_S = 1.0
"""A bell is a hint: every spool's head is looked at this often."""
SLICES = 20
GRACE_S = 2.0
DOUBT_S = 0.05
RETRY_S = 1.0
PUBLISH_BYTES = 4 << 20
MAX_UIDS = 10_000
"""Attempts whose user is remembered when they are over: the next attempt of the run may answer in their stead."""


class Keeper(Protocol):
    """Who keeps descriptors while this daemon is away (the service manager; see daemon/notify.py)."""

    def keep(self, name: str, fds: Sequence[int]) -> bool: ...
    def forget(self, name: str) -> bool: ...


KEPT = "spool."
"""The name of an attempt's descriptors at the keeper is this and the attempt."""


@dataclass
class Surroundings:
    """What the streams stand on; all but `placements` belong to the edge's thread."""

    bus: Bus
    mark: Callable[[str], int | None]
    clock: Clock
    watch: Watch
    placements: Placements
    counters: Counter[str]
    limits: StreamLimits = field(default_factory=StreamLimits)
    own_folders: tuple[str, ...] = ()
    keeper: Keeper | None = None
    uid_of: Callable[[str], int | None] = lambda _attempt: None
    silence_s: float = FIRST_S


class Streams:
    """The edge's thread calls everything here but `table`. `trouble` says why nothing can be put on the log, "" while it can;
    `log_took_s` is how long the log took over what it was given last."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._clock, self._counters, self._watch = around.clock, around.counters, around.watch
        self._voice = Voice(around.bus, around.clock, around.counters)
        self._vigils = Vigils(around.bus, around.clock, around.counters, around.silence_s)
        self._streams: dict[str, Stream] = {}
        self._uids: OrderedDict[str, int] = OrderedDict()
        self._ready: dict[Stream, None] = {}
        self._allowances: dict[tuple[int, str], Allowance] = {}
        self._blocked_until = 0.0
        self.trouble = ""
        self.log_took_s = 0.0
        self._slice = 0
        self._watch.at(self._clock.monotonic(), self._look)

    def __contains__(self, attempt: str) -> bool:
        return attempt in self._streams

    def table(self) -> list[dict[str, Any]]:
        """A row a stream, for status. For any thread."""
        return [one.told() for one in list(self._streams.values())]

    def keys(self) -> set[str]:
        """What the messages of the jobs here are keyed by. For any thread."""
        return {one.shipper.key for one in list(self._streams.values())}

    # coming

    def greet(self, line: Line, said: Mapping[str, Any], descriptors: list[int]) -> None:
        """Takes a job's spool, and its pidfd if it sent one, out of `descriptors`. Forbidden or CorruptData with the reason."""
        if not descriptors:
            raise Forbidden("a greeting without a spool", "the descriptor did not come with it: see docs/jobs.md")
        check_descriptor(descriptors[0], line.peer.uid, said.get("bytes"))
        pidfd = descriptors[1] if len(descriptors) > 1 else -1
        if pidfd >= 0 and "pidfd" not in os.readlink(f"/proc/self/fd/{pidfd}"):
            raise Forbidden("the second descriptor is no pidfd", "leave it out, or send os.pidfd_open(os.getpid())")
        reader = SpoolReader(descriptors[0])
        identity = reader.identity
        if (identity.run, identity.attempt) != (said.get("run"), said.get("attempt")):
            raise Forbidden("the spool is another attempt's than the greeting says", "hand over the spool that attach made")
        stream = self._streams.get(identity.attempt)
        if stream is None:
            group = said.get("group")
            stream = self.adopt(reader, line.peer.uid, group if isinstance(group, str) and group else None)
            del descriptors[0]
        elif stream.uid != line.peer.uid or not os.path.samestat(os.fstat(stream.reader.fd), os.fstat(reader.fd)):
            raise Forbidden(f"attempt {identity.attempt} is served from another spool already", "start the job anew")
        if pidfd >= 0 and stream.pidfd < 0:
            self.guard(stream, pidfd)
            descriptors.remove(pidfd)
        if stream.line is None and stream.path is None:
            self._keep(stream)
        stream.line, line.stream = line, stream
        stream.silent_since, stream.arm_after = None, 0.0
        if stream.ending == HUNG_UP:
            stream.ending = ""

    def adopt(self, reader: SpoolReader, uid: int, group: str | None = None, path: str | None = None) -> Stream:
        """Reads this spool from now on, from where the bus says it was read to; owns the reader."""
        attempt = reader.identity.attempt
        reader.rewind(max(self._around.mark(mark_name(attempt)) or 0, reader.position))
        if reader.drained:
            reader.mark_drained(False)
        shipper = Shipper(reader, group, lambda older: self._is_of(older, uid))
        stream = Stream(shipper, uid, self._allowances_of(uid, reader.identity.run))
        self._uids[attempt] = uid
        if len(self._uids) > MAX_UIDS:
            self._uids.popitem(last=False)
        stream.path = path
        self._streams[attempt] = stream
        self._ready[stream] = None
        self._counters["spools_taken"] += 1
        self._voice.refuse(self._around.placements.arrived(attempt, reader.fd))
        return stream

    def _is_of(self, attempt: str, uid: int) -> bool:
        """Whether an attempt is of this user; one that nobody remembers belongs to the daemon's own."""
        known = self._uids.get(attempt)
        if known is None:
            known = self._around.uid_of(attempt)
        return uid == (os.geteuid() if known is None else known)

    def _keep(self, stream: Stream) -> None:
        """A spool that cannot be opened by its path is still there for the daemon after this one."""
        keeper = self._around.keeper
        if keeper is not None and not stream.kept:
            fds = [stream.reader.fd] + ([stream.pidfd] if stream.pidfd >= 0 else [])
            stream.kept = keeper.keep(KEPT + stream.attempt, fds)

    def take_kept(self, descriptors: Sequence[int]) -> None:
        """What the keeper had of one attempt: its spool, and its pidfd if it had sent one. Owns the descriptors.
        CorruptData or Forbidden for what is no spool."""
        fd, *more = descriptors
        try:
            check_descriptor(fd, os.fstat(fd).st_uid, None)
            stream = self.adopt(SpoolReader(fd), os.fstat(fd).st_uid)
        except BaseException:
            for one in descriptors:
                os.close(one)
            raise
        stream.kept = True
        if more:
            self.guard(stream, more[0])
        elif is_running(stream.identity) is False:
            self.end(stream, PROCESS_GONE)

    def guard(self, stream: Stream, pidfd: int) -> None:
        """`pidfd` (owned from now on) says when the attempt's process ends."""
        stream.pidfd = pidfd
        self._watch.watch(pidfd, lambda: self.end(stream, PROCESS_GONE))

    def _allowances_of(self, uid: int, run: str) -> list[Allowance]:
        limits, now = self._around.limits, self._clock.monotonic()
        wanted = (((uid, run), limits.points_per_s_run), ((uid, ""), limits.points_per_s_uid))
        return [self._allowances.setdefault(key, Allowance(per_s, now)) for key, per_s in wanted if per_s]

    # reading

    def rang(self, stream: Stream) -> None:
        """The job found the bell armed, and cleared it."""
        stream.rest(self._clock.monotonic() + REARM_S)
        self._ready[stream] = None

    @property
    def busy(self) -> bool:
        """Whether there is something to read now."""
        return bool(self._ready) and self._clock.monotonic() >= self._blocked_until

    def turn(self) -> bool:
        """Each spool that has something is read once, 256 KiB at most, and all of it is published; whether there was any."""
        now, before = self._clock.monotonic(), self._counters["messages"]
        if now < self._blocked_until:
            return False
        messages: list[Message] = []
        taken: list[Stream] = []
        size = 0
        for stream in list(self._ready):
            wait_s = stream.wait_s(now)
            if wait_s > 0.0 and not stream.reader.broken:
                self._counters["turns_over_limit"] += 1
                self._later(stream, now + wait_s)
                continue
            found = self._read(stream, now)
            if not any(message.topic == METRICS for message in found):
                stream.arm_after = 0.0  # an answer rang: the points that follow it are not to wait for the bell's rest
            messages += found
            taken.append(stream)
            size += sum(len(message.body) for message in found)
            if size > PUBLISH_BYTES:
                self._publish(messages, taken)
                messages, taken, size = [], [], 0
        self._publish(messages, taken)
        return self._counters["messages"] > before

    def _read(self, stream: Stream, now: float) -> list[Message]:
        strange = stream.shipper.strange_events
        try:
            return stream.read(now)
        except CorruptData as error:
            self._damaged(stream, error, stream.reader.broken or isinstance(error, Truncated))
        except Exception as error:  # one spool's fault is not the others'
            log.exception("a spool's fault")
            self._damaged(stream, error, True)
        finally:
            if stream.shipper.strange_events > strange:
                self._counters["events_strange"] += stream.shipper.strange_events - strange
                self._voice.tell("events_strange", "its spool holds events that are none, or another attempt's: left out", stream)
        return []

    def _damaged(self, stream: Stream, error: Exception, for_good: bool) -> None:
        """Counts and tells; `for_good`: nothing more is read of it, but its process is watched on."""
        self._counters["spools_damaged"] += 1
        stream.reader.broken = for_good
        self._voice.tell("spool_damaged", str(error), stream)

    def cannot_read(self, path: str, error: Exception) -> None:
        """A file among the spools that is none: counted and told once."""
        if self._voice.warn("spool_unreadable", f"{path}: {error}", path):
            self._counters["spools_unreadable"] += 1

    def _publish(self, messages: list[Message], taken: list[Stream]) -> None:
        try:
            if messages:
                began = self._clock.monotonic()
                self._around.bus.publish(messages)
                self.log_took_s = self._clock.monotonic() - began
        except Unavailable as error:
            self._counters["publish_failed"] += 1
            if not self.trouble:
                log.warning("nothing can be put on the log, trying again; the jobs write on into their spools: %s", error)
            self.trouble = error.message
            self._blocked_until = self._clock.monotonic() + RETRY_S
            self._watch.at(self._blocked_until, _nothing)
            for stream in taken:  # a prefix may have been taken
                stream.repeat(self._around.mark(mark_name(stream.attempt)) or 0)
            return
        if self.trouble and messages:
            log.info("the log takes records again")
            self.trouble = ""
        self._counters["messages"] += len(messages)
        for stream in taken:
            try:
                stream.keep()
                self._settle(stream)
            except (CorruptData, OSError) as error:
                self._damaged(stream, error, True)

    def _settle(self, stream: Stream) -> None:
        """What comes next for a stream that was read: more, sleep, or its end."""
        now = self._clock.monotonic()
        if stream.ending:
            if stream.finished_reading:
                self._finish(stream)
                return
        elif stream.reader.broken:
            self._ready.pop(stream, None)
            return
        elif stream.rests(now, REARM_S):
            if stream.reader.behind == 0:
                self._later(stream, stream.arm_after)
                return
        elif stream.reader.arm():
            self._ready.pop(stream, None)
            return
        if stream.reader.doubtful:
            self._later(stream, now + DOUBT_S)

    def _later(self, stream: Stream, due: float) -> None:
        self._ready.pop(stream, None)
        if stream.due is not None and stream.due <= due:
            return
        stream.due = due

        def wake() -> None:
            if stream.due == due:
                stream.due = None
                if stream.attempt in self._streams:
                    self._ready[stream] = None

        self._watch.at(due, wake)

    def _look(self) -> None:
        """A part of all spools, so that each has its turn once in LOOK_S."""
        self._watch.at(self._clock.monotonic() + LOOK_S / SLICES, self._look)
        self._slice = (self._slice + 1) % SLICES
        self._look_at_each(list(self._streams.values())[self._slice :: SLICES])

    def look_at_all(self) -> None:
        """Every spool's head now."""
        self._look_at_each(list(self._streams.values()))

    def _look_at_each(self, streams: Iterable[Stream]) -> None:
        for stream in streams:
            try:
                self._look_at(stream)
            except (CorruptData, OSError) as error:
                self._damaged(stream, error, True)

    def _look_at(self, stream: Stream) -> None:
        if stream.reader.broken:
            return
        stream.behind = stream.reader.behind
        self._vigils.look(stream, is_shipping=not self.trouble)
        if stream.behind and stream.due is None:
            self._ready[stream] = None
        dropped = stream.reader.dropped
        if dropped > stream.dropped:
            self._counters["points_dropped"] += dropped - stream.dropped
            self._voice.tell("points_dropped", f"its spool was full, {dropped} points were dropped so far", stream)
            stream.told_of(dropped)

    # going

    def hung_up(self, stream: Stream, line: Line) -> None:
        """The socket closed; the process may have died, or come back within 2 s."""
        if stream.line is not line:
            return
        stream.line = None
        if stream.shipper.ended and stream.finished_reading:  # it said goodbye
            self.end(stream, HUNG_UP)
            return
        now = stream.silent_since = self._clock.monotonic()

        def conclude() -> None:
            if stream.line is None and stream.silent_since == now:
                self.end(stream, HUNG_UP)

        self._watch.at(now + GRACE_S, conclude)

    def end(self, stream: Stream, why: str) -> None:
        """The attempt is over; what is left of its spool is read first."""
        if why == PROCESS_GONE and stream.pidfd >= 0:
            self._watch.forget(stream.pidfd)
        if not stream.ending and stream.attempt in self._streams:
            stream.ending = why
            self._ready[stream] = None

    def _finish(self, stream: Stream) -> None:
        now = self._clock.now()
        closing = stream.closing_event(now)
        if closing is not None:
            try:
                self._around.bus.publish([Message(RUNS, stream.shipper.key, encode(closing))])
            except Unavailable:
                self._later(stream, self._clock.monotonic() + RETRY_S)
                return
            self._counters["died"] += 1
        try:
            self._look_at(stream)
            stream.reader.mark_drained()
        except (CorruptData, OSError) as error:
            self._damaged(stream, error, True)
        self._counters["spools_removed"] += stream.remove_file(self._around.own_folders)
        self.let_go(stream, over=True)
        self._counters["spools_drained"] += 1

    def let_go(self, stream: Stream, over: bool) -> None:
        """No more of this stream; `over`: its attempt will not come again."""
        self._ready.pop(stream, None)
        if self._streams.get(stream.attempt) is stream:
            del self._streams[stream.attempt]
        acks = self._around.placements.left(stream.attempt, over)
        if over and stream.kept and self._around.keeper is not None:
            self._around.keeper.forget(KEPT + stream.attempt)
        if stream.pidfd >= 0:
            self._watch.forget(stream.pidfd)
        if stream.line is not None:
            stream.line.stream = None
        self._allowances.pop((stream.uid, stream.run), None)
        stream.close()
        self._voice.refuse(acks)

    def disarm(self) -> None:
        """The daemon stops: nobody is there to hear a bell."""
        for stream in list(self._streams.values()):
            try:
                stream.reader.disarm()
            except OSError:
                pass
            self.let_go(stream, over=False)


def _nothing() -> None:
    """A point in time at which the edge looks again."""
