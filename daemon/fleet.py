"""The judge's state where several daemons share its group: it follows the partitions, through the compacted `state` topic.

Of a partition there are three kinds of entries, each keyed with the epoch of who wrote it: `claim|EPOCH|DAEMON` says who owns
it from there on; `NAME@EPOCH` is one attempt with the offsets it is folded to and its answers that may be unsent; `head|EPOCH` is
the partition's cursor, written behind the attempts. What stands behind a claim under a lower epoch was written by
a daemon that had lost the partition, and does not count.

A kill between two entries leaves attempts that are ahead of the cursor: what they hold already is not folded again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count

import msgspec

from ..bus.claims import REPEAT_S
from ..bus.partitions import key_of, partition_of
from ..consumers.judge import Judge
from ..core.errors import CorruptData, Unavailable
from ..core.events import Claim, Decision, decode, encode
from ..core.ports import CONTROL, EARLIEST, Bus, Clock, Message, Partition, StateLog

log = logging.getLogger("smarttuner.fleet")
SAVE_EVERY_S = 5.0
SAVE_SHARE = 20
"""Without an answer what changed is saved every 5 s, or every 20 times what the last save took."""
TELL_S = 1.0
CLAIM_TRIES = 20
HEAD, CLAIM = "|head", "|claim"
"""No attempt can be called so."""

Waiting = Mapping[tuple[int, str], list[Message]]


class Saved(msgspec.Struct, array_like=True):
    """One entry's value: an attempt's body or the head's; `folded` are offsets by topic, `answers` what may be unsent."""

    body: bytes = b""
    folded: dict[str, int] = {}
    answers: list[tuple[str, str, bytes, tuple[tuple[str, bytes], ...]]] = []


class Found(msgspec.Struct):
    """A partition's state as its entries tell it."""

    epoch: int = 0
    owner: str = ""
    head: Saved = msgspec.field(default_factory=Saved)
    attempts: dict[str, Saved] = {}
    outdated: list[str] = []
    """Keys of lower epochs."""
    unreadable: int = 0


class Share:
    """One partition that this daemon owns. `moved`: the head must be written though no answer is."""

    def __init__(self, epoch: int, cursor: Mapping[str, int], clock: Clock) -> None:
        self.epoch = epoch
        self.cursor = dict(cursor)
        self.durable = dict(cursor)
        self.moved = False
        self.claim_due = clock.monotonic() + REPEAT_S


class FleetStore:
    """The judge's Store over a StateLog. `daemon` names this process, never two alike. `connect` gives the handle by which
    claims are said. Unavailable where the log is away, and when another daemon took a partition over."""

    def __init__(
        self, judge: Judge, state: StateLog, connect: Callable[[], Bus], clock: Clock, daemon: str, partitions: int
    ) -> None:
        self._judge, self._state, self._connect, self._clock = judge, state, connect, clock
        self._daemon, self._partitions = daemon, partitions
        self._bus: Bus | None = None
        self._shares: dict[int, Share] = {}
        self._homes: dict[str, int] = {}
        self._out: dict[int, tuple[int, str, Message]] = {}
        self._numbers = count(1)
        self._due = self._tell_at = 0.0
        self.taken_over = 0
        self.unreadable = 0

    @property
    def epochs(self) -> dict[int, int]:
        """The partitions owned now, with their epochs; for status."""
        return {number: share.epoch for number, share in self._shares.copy().items()}

    def reload(self) -> None:
        self._shares, self._homes, self._out = {}, {}, {}
        self._judge.load({}, None)

    def position(self, partition: Partition) -> int | None:
        topic, number = partition
        share = self._shares.get(number) or self._take(number)
        return share.cursor.get(topic, EARLIEST)

    # -- taking a partition over -------------------------------------------------------------------------------------

    def _take(self, number: int) -> Share:
        """Claims the partition and takes its state. What it says before the first decision: its claim, on `control`."""
        found = self._claim(number)
        share = Share(found.epoch, found.head.folded, self._clock)
        self._judge.take(number, {name: (one.body, one.folded) for name, one in found.attempts.items()})
        self._shares[number] = share
        for name, one in [("", found.head), *found.attempts.items()]:
            self._homes[name] = number
            for topic, key, body, headers in one.answers:
                self._put(number, name, Message(topic, key, body, headers))
        # All of it once more under the new epoch, and only then without the old: the former owner may still be writing.
        entries = [(f"{name}@{share.epoch}", msgspec.msgpack.encode(one)) for name, one in found.attempts.items()]
        entries.append((f"head|{share.epoch}", msgspec.msgpack.encode(found.head)))
        self._state.write(number, [*entries, *((key, None) for key in found.outdated)])
        self._say(number, share)
        self.taken_over += 1
        self.unreadable += found.unreadable
        log.info("partition %d is judged here: epoch %d, %d attempts", number, share.epoch, len(found.attempts))
        return share

    def _claim(self, number: int) -> Found:
        for _ in range(CLAIM_TRIES):
            epoch = restore(self._state.read(number)).epoch + 1
            self._state.write(number, [(f"claim|{epoch}|{self._daemon}", b"")])
            found = restore(self._state.read(number))
            if (found.epoch, found.owner) == (epoch, self._daemon):
                return found
        raise Unavailable(
            f"partition {number} of the judge's group is claimed by others again and again",
            "give each daemon a data directory of its own, and look whether the group keeps rebalancing",
        )

    def _say(self, number: int, share: Share) -> None:
        """Appends the claim to the control partition: on return it stands before every decision under its epoch."""
        self._bus = self._bus or self._connect()
        claim = Claim(number, share.epoch, self._daemon, self._clock.now())
        self._bus.publish([Message(CONTROL, key_of(number, self._partitions), encode(claim))])
        share.claim_due = self._clock.monotonic() + REPEAT_S

    def revoke(self, partitions: Sequence[Partition]) -> None:
        self._save()
        for number in {number for _, number in partitions}:
            if self._shares.pop(number, None) is not None:
                self._judge.drop(number)
                self._out = {n: one for n, one in self._out.items() if one[0] != number}
                log.info("partition %d is no longer judged here", number)

    # -- what a lane asks ------------------------------------------------------------------------------------------

    def commit(
        self, answers: Sequence[Message], positions: Mapping[Partition, int], now: float, at_once: bool
    ) -> Mapping[Partition, int] | None:
        self._look_whether_fenced()
        for (topic, number), following in positions.items():
            if number in self._shares:
                self._shares[number].cursor[topic] = following
        for message in answers:
            self._put(*self._home(message), message)
        monotonic = self._clock.monotonic()
        for number, share in self._shares.items():
            if monotonic >= share.claim_due:
                self._say(number, share)
        if not answers and not at_once and monotonic < self._due:
            return None
        return self._save()

    @property
    def waiting(self) -> bool:
        return bool(self._out)

    def unsent(self) -> Sequence[tuple[int, Message]]:
        return [(number, self._stamped(partition, message)) for number, (partition, _, message) in self._out.items()]

    def mark_sent(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            partition, attempt, _ = self._out.pop(number)
            if attempt:
                self._judge.touch(attempt)
            elif partition in self._shares:
                self._shares[partition].moved = True

    def finish(self, now: float) -> Mapping[Partition, int] | None:
        self._tell_at = 0.0
        return self._save()

    def close(self) -> None:
        """Lets go of the handle by which claims are said."""
        if self._bus is not None:
            self._bus.close()

    # -- saving ----------------------------------------------------------------------------------------------------

    def _look_whether_fenced(self) -> None:
        for number, share in self._shares.items():
            if (self._judge.claims.epoch(number) or 0) > share.epoch:
                raise Unavailable(
                    f"another daemon has taken partition {number} over", "this one asks for its share of the group anew"
                )

    def _home(self, message: Message) -> tuple[int, str]:
        """The partition and attempt with whose state an answer is saved; "" where it belongs to the partition alone."""
        try:
            attempt = getattr(decode(message.body), "attempt", None) or ""
        except CorruptData:  # a dead letter
            attempt = ""
        if attempt in self._judge.attempts:
            return self._judge.attempts[attempt].partition, attempt
        number = partition_of(message.key, self._partitions)
        return (number if number in self._shares else min(self._shares, default=number)), ""

    def _put(self, number: int, attempt: str, message: Message) -> None:
        self._out[next(self._numbers)] = (number, attempt, message)

    def _stamped(self, partition: int, message: Message) -> Message:
        """A decision goes out under the epoch of who sends it."""
        if message.topic != CONTROL or partition not in self._shares:
            return message
        decision = decode(message.body)
        if not isinstance(decision, Decision) or decision.epoch == self._shares[partition].epoch:
            return message
        return message._replace(body=encode(msgspec.structs.replace(decision, epoch=self._shares[partition].epoch)))

    def _waiting(self) -> Waiting:
        """Answers that may be unsent, by partition and attempt."""
        found: dict[tuple[int, str], list[Message]] = {}
        for number, attempt, message in self._out.values():
            found.setdefault((number, attempt), []).append(message)
        return found

    def _save(self) -> Mapping[Partition, int] | None:
        begun = self._clock.monotonic()
        bodies, _ = self._judge.changes()
        waiting = self._waiting()
        by_partition: dict[int, list[tuple[str, bytes | None]]] = {}
        for name, body in bodies.items():
            number = self._judge.attempts[name].partition if body is not None else self._homes.pop(name, -1)
            share = self._shares.get(number)
            if share is None:
                continue
            self._homes[name] = number
            value = None if body is None else _entry(body, share.cursor, waiting.get((number, name), ()))
            by_partition.setdefault(number, []).append((f"{name}@{share.epoch}", value))
        for number, share in self._shares.items():
            if number in by_partition or share.moved or share.cursor != share.durable:
                entries = by_partition.get(number, [])
                head = _entry(b"", share.cursor, waiting.get((number, ""), ()))
                self._state.write(number, [*entries, (f"head|{share.epoch}", head)])
                share.durable, share.moved = dict(share.cursor), False
        self._judge.saved()
        ended = self._clock.monotonic()
        self._due = ended + max(SAVE_EVERY_S, SAVE_SHARE * (ended - begun))
        if ended < self._tell_at:
            return None
        self._tell_at = ended + TELL_S
        return dict(self._durable())

    def _durable(self) -> Iterator[tuple[Partition, int]]:
        for number, share in self._shares.items():
            for topic, following in share.durable.items():
                yield (topic, number), following


def _entry(body: bytes, folded: Mapping[str, int], waiting: Sequence[Message]) -> bytes:
    answers = [(m.topic, m.key, m.body, m.headers) for m in waiting]
    return msgspec.msgpack.encode(Saved(body, dict(folded), answers))


def restore(entries: Sequence[tuple[str, bytes | None]]) -> Found:
    """What a partition's entries say, read in their order."""
    found = Found()
    epochs: dict[str, int] = {}
    keys: dict[str, int] = {}
    for key, value in entries:
        name, epoch, owner = _parsed(key)
        if name is None:
            found.unreadable += 1
            continue
        if value is None:
            keys.pop(key, None)
        else:
            keys[key] = epoch
        if name == CLAIM:
            if value is not None and epoch > found.epoch:
                found.epoch, found.owner = epoch, owner
            continue
        if epoch < max(found.epoch, epochs.get(name, 0)):
            continue  # behind a claim, or behind what the new owner wrote of it
        epochs[name] = epoch
        _take_entry(found, name, value)
    found.outdated = [key for key, epoch in keys.items() if epoch < found.epoch]
    return found


def _take_entry(found: Found, name: str, value: bytes | None) -> None:
    if value is None:
        found.attempts.pop(name, None)
        return
    try:
        saved = msgspec.msgpack.decode(value, type=Saved)
    except msgspec.DecodeError:
        found.unreadable += 1
        return
    if name == HEAD:
        found.head = saved
    else:
        found.attempts[name] = saved


def _parsed(key: str) -> tuple[str | None, int, str]:
    """(name, epoch, daemon) of a key; the name is None for a key of none of the three kinds."""
    kind, _, rest = key.partition("|")
    if rest and kind in ("claim", "head"):
        epoch, _, owner = rest.partition("|")
        return ("|" + kind, int(epoch), owner) if epoch.isdecimal() else (None, 0, "")
    name, _, epoch = key.rpartition("@")
    return (name, int(epoch), "") if name and epoch.isdecimal() else (None, 0, "")
