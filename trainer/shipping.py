"""A job that ships its own spool where no daemon runs: two threads that do for one job what the edge does for many.

One reads the spool onto the log and moves the read position once what it read is acknowledged; the other follows `control`
and writes decisions onto the spool's page. The training thread pays for neither but by the GIL. Killed at any time, the spool
keeps what was not acknowledged, and whoever serves this user next ships it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..bus.claims import Claims
from ..bus.delivery import Delivery
from ..bus.partitions import partition_of
from ..bus.placements import Placements, ack_message
from ..bus.shipper import Shipper, mark_name
from ..bus.spool import Spool
from ..bus.spool_file import disown, is_running, memory_folder, opened_spool, own, spool_paths
from ..bus.spool_reader import SpoolReader
from ..bus.vigil import Vigil, note
from ..core.clock import Clock
from ..core.errors import CorruptData, SmartTunerError, Unavailable
from ..core.events import Claim, Decision, Notice, decode, encode, topic_key
from ..core.ports import CONTROL, NOTICES, RUNS, Bus, Message, Record
from .voice import Voice

REARM_S = 0.1
"""Between two bells: a publish costs the job's process about a millisecond of CPU, and this bounds it to ten a second."""
LOOK_S = 1.0
RETRY_S = (0.5, 1.0, 2.0, 5.0)
FOLLOW_S = 1.0
MOST_LEFTOVERS = 16


class Log(Protocol):
    """What KafkaLog gives a job."""

    @property
    def partitions(self) -> int: ...
    def connect(self) -> Bus: ...
    def mark(self, name: str) -> int | None: ...
    def position_at(self, topic: str, partition: int, time_s: float) -> int: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Route:
    """Where to: `address` as spools name it, how to open it, and the folders in which this user's earlier jobs may have left
    spools for it. `opened` is called when a connection was made anew."""

    address: str
    open_log: Callable[[], Log]
    folders: tuple[str, ...] = ()
    opened: Callable[[], object] = lambda: None


class Shipping:
    """From `start` to `stop`; a new one afterwards. `hopeless` says why it gave up ("" while it has not)."""

    def __init__(self, spool: Spool, route: Route, clock: Clock, voice: Voice) -> None:
        self._spool, self._route, self._clock, self._voice = spool, route, clock, voice
        self.counters: Counter[str] = Counter()
        self.hopeless = ""
        self._placements = Placements(clock, self.counters)
        self._stopping = threading.Event()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._armed_at = -REARM_S
        self._deliveries: list[Delivery] = []
        self._fresh = True
        self._reader: SpoolReader | None = None
        self._thread = threading.Thread(target=self._run, name="smart-tuner-ship", daemon=True)
        self._released = threading.Event()
        self._page = -1
        self._vigil = Vigil()
        _forget_in_children(self)

    def start(self) -> None:
        """Begins; nothing of it is waited for."""
        self._thread.start()

    def ring(self) -> None:
        """There is something to read. For any thread."""
        try:
            self._bell.release()
        except RuntimeError:  # it rings already
            pass

    def ask_to_stop(self) -> None:
        """What is under way is finished, nothing new begun; `stopped` says when."""
        self._stopping.set()
        self.ring()

    @property
    def stopped(self) -> bool:
        """Whether somebody else may read the spool."""
        return self._released.is_set()

    def close(self, timeout_s: float) -> None:
        """Stops, and waits for it so long."""
        self.ask_to_stop()
        self._released.wait(timeout_s)

    def forget(self) -> None:
        """In the child of a fork: the threads are the parent's. Only this process's copies of the descriptors go, with which it
        would keep the parent's lock."""
        self._let_go()
        if self._page >= 0:
            os.close(self._page)

    def _let_go(self) -> None:
        for one in self._deliveries:
            one.reader.close()
        if self._reader is not None:
            self._reader.close()

    # the thread that ships

    def _run(self) -> None:
        log: Log | None = None
        try:
            if (delivery := self._own_delivery()) is not None and (log := self._opened()) is not None:
                self._serve(log, delivery)
        except Exception as error:  # noqa: BLE001  # a fault of ours does not reach the training; the spool keeps what it has
            self.hopeless = f"{type(error).__name__}: {error}"
            self._voice.once("shipping", f"this job does not ship any more: {self.hopeless}; what is logged waits in its spool")
        finally:
            self._stopping.set()
            for one in self._deliveries:
                disown(one.reader.fd)
            self._let_go()
            self._released.set()
            if log is not None:
                log.close()

    def _own_delivery(self) -> Delivery | None:
        """Our spool through a descriptor of its own, which holds the lock; None where another process reads it already."""
        fd, _ = opened_spool(self._spool.path)
        self._reader = reader = SpoolReader(fd)
        while not own(fd):
            if self._stopping.wait(LOOK_S):
                return None
        delivery = Delivery(Shipper(reader, may_answer=lambda _attempt: True))
        self._deliveries.append(delivery)
        return delivery

    def _opened(self) -> Log | None:
        """The log, as soon as it can be had; None if that makes no sense or nobody waits for it any more."""
        tries = 0
        while not self._stopping.is_set():
            try:
                return self._route.open_log()
            except Unavailable as error:
                self._away(error)
            except SmartTunerError as error:
                self.hopeless = str(error)
                self._voice.say(f"this job cannot ship to {self._route.address}: {error}\n    what is logged waits in its spool")
                return None
            self._stopping.wait(RETRY_S[min(tries, len(RETRY_S) - 1)])
            tries += 1
        return None

    def _away(self, error: Unavailable) -> None:
        self.counters["away"] += 1
        self._fresh = True
        self._say("away", f"{self._route.address} is away: {error.message}; what is logged waits in the spool until it is back")

    def _say(self, about: str, text: str) -> None:
        """Once; and no word behind the job's own last one."""
        if not self._stopping.is_set():
            self._voice.once(about, text)

    def _serve(self, log: Log, mine: Delivery) -> None:
        threading.Thread(target=self._follow, args=(log, mine), name="smart-tuner-control", daemon=True).start()
        bus = log.connect()
        self._take_leftovers()
        tries = 0
        while not self._stopping.is_set():
            try:
                busy = self._turn(log, bus)
                tries = 0
            except Unavailable as error:
                self._away(error)
                self._stopping.wait(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1
                continue
            if not busy:
                self._rest(mine.reader)
        bus.close()

    def _turn(self, log: Log, bus: Bus) -> bool:
        """Each spool is read once and what was read is published; whether there was anything."""
        busy = False
        for one in list(self._deliveries):
            messages = self._read(one)
            if messages:
                self._publish(log, bus, one, messages)
                busy = True
            self._tell_drops(bus, one)
            self._watch(bus, one)
            if one is not self._deliveries[0] and one.finished_reading:
                self._end(bus, one)
        return busy

    def _read(self, one: Delivery) -> list[Message]:
        try:
            return one.read(self._clock.monotonic())
        except CorruptData as error:
            self.counters["spools_damaged"] += 1
            self._voice.once(f"damaged {one.attempt}", str(error))
        return []

    def _publish(self, log: Log, bus: Bus, one: Delivery, messages: Sequence[Message]) -> None:
        try:
            bus.publish(messages)
        except Unavailable:  # a prefix may have been taken
            one.repeat(log.mark(mark_name(one.attempt)) or 0)
            raise
        one.keep()
        self.counters["messages"] += len(messages)
        if self._fresh:
            self._fresh = False
            self._route.opened()

    def _tell_drops(self, bus: Bus, one: Delivery) -> None:
        dropped = one.reader.dropped
        if dropped > one.dropped:
            text = f"its spool was full, {dropped} points were dropped so far"
            notice = Notice("points_dropped", text, self._clock.now(), run=one.run, attempt=one.attempt, group=one.shipper.group)
            bus.publish([Message(NOTICES, topic_key(one.run, one.shipper.group), encode(notice))])
            one.told_of(dropped)

    def _watch(self, bus: Bus, one: Delivery) -> None:
        """Tells of a silence of our own job, as a daemon would. A process that is stopped, or keeps the interpreter's lock,
        stops this thread, too."""
        if one is self._deliveries[0]:
            mark = None if one.reader.behind or one.shipper.ended else one.reader.position
            watched = self._vigil.look(mark, self._clock.monotonic(), os.getpid)
            if watched is not None:
                bus.publish([note(one, watched, self._clock.now())])

    def _rest(self, reader: SpoolReader) -> None:
        """Until the job rings, or a second; a spool that does not agree yet is looked at again soon."""
        if self._stopping.wait(max(0.0, self._armed_at + REARM_S - self._clock.monotonic())):
            return
        self._armed_at = self._clock.monotonic()
        if reader.arm():
            self._bell.acquire(timeout=LOOK_S)
            self._armed_at = self._clock.monotonic()

    # what earlier jobs of this user left

    def _take_leftovers(self) -> None:
        for folder in (*self._route.folders, memory_folder()):
            for attempt, path in spool_paths(folder):
                if attempt != self._spool.attempt and len(self._deliveries) <= MOST_LEFTOVERS:
                    self._take_leftover(path)

    def _take_leftover(self, path: str) -> None:
        """The spool of a dead job that is meant for this log, unless somebody else ships it."""
        try:
            fd, identity = opened_spool(path)
        except (CorruptData, OSError):
            return
        try:
            reader = SpoolReader(fd)
            if identity.address == self._route.address and is_running(identity) is False and not reader.drained and own(fd):
                self._deliveries.append(Delivery(Shipper(reader, may_answer=lambda _attempt: True)))
                fd = -1
        except (CorruptData, OSError):
            pass
        finally:
            if fd >= 0:
                os.close(fd)

    def _end(self, bus: Bus, one: Delivery) -> None:
        """All of a dead job's spool is on the log: its end too, if it had not said so itself, and the file goes."""
        closing = one.closing_event(self._clock.now())
        if closing is not None:
            bus.publish([Message(RUNS, one.shipper.key, encode(closing))])
        self._deliveries.remove(one)
        one.reader.mark_drained()
        try:
            os.unlink(os.readlink(f"/proc/self/fd/{one.reader.fd}"))
        except OSError:
            pass
        one.reader.close()
        self.counters["leftovers"] += 1

    # the thread that follows control

    def _follow(self, log: Log, mine: Delivery) -> None:
        try:  # without the lock, which goes as soon as nothing is shipped any more
            self._page, _ = opened_spool(self._spool.path)
        except (CorruptData, OSError):  # the job has ended before this thread began, and its spool is gone
            return
        self._placements.arrived(mine.attempt, self._page)
        bus: Bus | None = None
        position: int | None = None
        number = partition_of(mine.shipper.key, log.partitions)
        claims = Claims()
        while not self._stopping.is_set():
            try:
                bus = bus or log.connect()
                if position is None:
                    position = log.position_at(CONTROL, number, claims.begin(number, self._clock.now()))
                records, following = bus.follow_partitions(CONTROL, {number: position}, 500, FOLLOW_S)
                for record in records:
                    self._obey(bus, record, claims, mine.attempt)
                position = following[number]
            except SmartTunerError as error:
                self._say("control", f"decisions cannot be heard just now: {error.message}")
                self._stopping.wait(RETRY_S[-1])
            except Exception as error:  # noqa: BLE001  # a fault of ours does not reach the training
                self._say("control fault", f"decisions are not heard any more: {type(error).__name__}: {error}")
                break
        self._placements.left(mine.attempt, over=False)
        page, self._page = self._page, -1
        os.close(page)
        if bus is not None:
            bus.close()

    def _obey(self, bus: Bus, record: Record, claims: Claims, attempt: str) -> None:
        """Only what the daemon decides that has the partition: of a paused one's copy a claim has been heard meanwhile, and
        its successor says the same under the same id."""
        try:
            event = decode(record.body)
        except CorruptData:
            return
        if isinstance(event, Claim):
            claims.hear(event, record.partition)
        elif isinstance(event, Decision) and event.attempt == attempt and event.status == "pending" and event.mode == "act":
            if not claims.allow(event, record.partition, record.time):
                self.counters["stale"] += 1
            elif (ack := self._placements.place(event)) is not None:
                bus.publish([ack_message(ack)])


def _forget_in_children(shipping: Shipping) -> None:
    reference = weakref.ref(shipping)

    def forget() -> None:
        found = reference()
        if found is not None:
            found.forget()

    os.register_at_fork(after_in_child=forget)
