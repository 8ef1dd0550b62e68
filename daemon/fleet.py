"""The judge's state where several daemons share its group: it follows the partitions, through the compacted `state` topic.

Of a partition there are three kinds of entries, each keyed with the epoch of who wrote it: `claim|EPOCH|DAEMON` says who owns
it from there on; `NAME@EPOCH` is one attempt with the offsets it is folded to and its answers that may be unsent; `head|EPOCH` is
the partition's cursor, written behind the attempts. What stands behind a claim under a lower epoch was written by
a daemon that had lost the partition, and does not count.

Attempts may be ahead of the cursor: what they hold already is not folded again. So an answer waits only for its own attempt
(and what shares its key) to be written; all else that changed is written in slices, a partition after the other, and a
partition's cursor moves when a round through it has ended, to where the round began.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count

import msgspec

from ..bus.claims import REPEAT_S
from ..bus.partitions import key_of, partition_of
from ..consumers.judge import Judge
from ..core.errors import CorruptData, Unavailable
from ..core.events import Claim, Decision, decode, encode, topic_key
from ..core.ports import CONTROL, EARLIEST, Bus, Clock, Message, Partition, StateLog

log = logging.getLogger("smarttuner.fleet")
SAVE_EVERY_S = 5.0
"""A partition rests so long between two rounds through what changed in it."""
SLICE = 64
SAVE_SHARE = 20
"""A round writes so many attempts at once, and pauses for 20 times as long as that took: an answer never waits for a thousand."""
TELL_S = 1.0
CLAIM_TRIES = 20
HEAD, CLAIM = "|head", "|claim"
"""No attempt can be called so."""

Waiting = Mapping[tuple[int, str], list[Message]]
Entry = tuple[str, bytes | None]


class Saved(msgspec.Struct, array_like=True):
    """One entry's value: an attempt's body, or in the head what else the partition has; `folded` are offsets by topic, `answers`
    what may be unsent."""

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
    """One partition that this daemon owns. `moved`: the head must be written though the cursor stands. `round` is what the round
    under way has not written yet, `goal` the cursor at its begin and `own` what the partition had beside its attempts there; no
    round is under way while `goal` is None."""

    def __init__(self, epoch: int, cursor: Mapping[str, int], clock: Clock, first_s: float) -> None:
        self.epoch = epoch
        self.cursor = dict(cursor)
        self.durable = dict(cursor)
        self.moved = False
        self.round: list[str] = []
        self.goal: dict[str, int] | None = None
        self.own = b""
        self.due = clock.monotonic() + first_s
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
        self._pause_until = self._tell_at = 0.0
        self._told: dict[Partition, int] = {}
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
        share = Share(found.epoch, found.head.folded, self._clock, SAVE_EVERY_S * (number + 1) / self._partitions)
        self._judge.take(number, {name: (one.body, one.folded) for name, one in found.attempts.items()}, found.head.body)
        self._shares[number] = share
        for name, one in [("", found.head), *found.attempts.items()]:
            self._homes[name] = number
            for topic, key, body, headers in one.answers:
                self._put(number, name, Message(topic, key, body, headers))
        # All of it once more under the new epoch, and only then without the old: the former owner may still be writing.
        entries = [(f"{name}@{share.epoch}", msgspec.msgpack.encode(one)) for name, one in found.attempts.items()]
        entries.append((f"head|{share.epoch}", msgspec.msgpack.encode(found.head)))
        self._state.write({number: [*entries, *((key, None) for key in found.outdated)]})
        self._say(number, share)
        self.taken_over += 1
        self.unreadable += found.unreadable
        log.info("partition %d is judged here: epoch %d, %d attempts", number, share.epoch, len(found.attempts))
        return share

    def _claim(self, number: int) -> Found:
        for _ in range(CLAIM_TRIES):
            epoch = restore(self._state.read(number)).epoch + 1
            self._state.write({number: [(f"claim|{epoch}|{self._daemon}", b"")]})
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
        numbers = {number for _, number in partitions}
        self._save(numbers)
        for number in numbers:
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
        homes = {self._put(*self._home(message), message) for message in answers}
        monotonic = self._clock.monotonic()
        for number, share in self._shares.items():
            if monotonic >= share.claim_due:
                self._say(number, share)
        if at_once:
            self._save(self._shares)
        elif homes:
            self._save_answers(homes)
        self._save_slice()
        return self._folded() if monotonic >= self._tell_at else None

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
        self._save(self._shares)
        return self._folded()

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

    def _put(self, number: int, attempt: str, message: Message) -> tuple[int, str]:
        self._out[next(self._numbers)] = (number, attempt, message)
        return number, attempt

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

    def _save(self, numbers: Collection[int]) -> None:
        """Makes all of these partitions durable at once, with their cursors."""
        names = self._changed_in(numbers)
        entries = self._entries(names)
        for number in numbers:
            share = self._shares.get(number)
            if share is not None and (number in entries or share.moved or share.cursor != share.durable):
                entries.setdefault(number, []).append(self._head(number, share, share.cursor, self._judge.own(number)))
        self._write(entries, names)
        for number in entries:
            self._rest(self._shares[number], self._shares[number].cursor)

    def _save_answers(self, homes: Collection[tuple[int, str]]) -> None:
        """Makes answers durable with the attempts they are of, and these with all that share their key. What belongs to no
        attempt is not known again when it is folded again: it is saved with its partition's cursor."""
        whole = {number for number, attempt in homes if not attempt}
        if whole:
            self._save(whole)
        keys = {(number, self._key(attempt)) for number, attempt in homes if number not in whole}
        if keys:
            numbers = {number for number, _ in keys}
            attempts = self._judge.attempts
            known = [name for name in self._changed_in(numbers) if name in attempts]
            names = [name for name in known if (attempts[name].partition, self._key(name)) in keys]
            self._write(self._entries(names), names)

    def _save_slice(self) -> None:
        """Goes on with the round of the partition that has waited longest, if one is due."""
        begun = self._clock.monotonic()
        if begun < self._pause_until or not self._shares:
            return
        number, share = min(self._shares.items(), key=lambda one: one[1].due)
        if share.due > begun:
            return
        if share.goal is None:
            share.own = self._judge.own(number)
            share.goal, share.round = dict(share.cursor), sorted(self._changed_in([number]), key=self._key, reverse=True)
        names: list[str] = []
        while share.round and (len(names) < SLICE or self._key(share.round[-1]) == self._key(names[-1])):  # peers stay together
            if share.round[-1] in self._judge.changed:  # else it was saved with an answer since
                names.append(share.round[-1])
            share.round.pop()
        entries = self._entries(names)
        if not share.round and (names or share.moved or share.goal != share.durable):
            entries.setdefault(number, []).append(self._head(number, share, share.goal, share.own))
        self._write(entries, names)
        if not share.round:
            self._rest(share, share.goal)
        ended = self._clock.monotonic()
        self._pause_until = ended + SAVE_SHARE * (ended - begun)

    def _key(self, name: str) -> str:
        attempt = self._judge.attempts.get(name)
        return topic_key(attempt.standing.record.run, attempt.standing.record.group) if attempt is not None else ""

    def _changed_in(self, numbers: Collection[int]) -> list[str]:
        """What changed in these partitions, and what nobody has saved who is forgotten already."""
        attempts, found = self._judge.attempts, []
        for name in self._judge.changed:
            number = attempts[name].partition if name in attempts else self._homes.get(name, -1)
            if number in numbers or number not in self._shares:
                found.append(name)
        return found

    def _entries(self, names: Iterable[str]) -> dict[int, list[Entry]]:
        """Attempts as they are now, by partition."""
        waiting, found = self._waiting(), dict[int, list[Entry]]()
        for name, body in self._judge.changes(names)[0].items():
            attempt = self._judge.attempts.get(name)
            number = attempt.partition if attempt is not None else self._homes.pop(name, -1)
            share = self._shares.get(number)
            if share is None:
                continue
            value = None
            if attempt is not None and body is not None:
                self._homes[name] = number
                value = _entry(body, _further(share.cursor, attempt.folded), waiting.get((number, name), ()))
            found.setdefault(number, []).append((f"{name}@{share.epoch}", value))
        return found

    def _head(self, number: int, share: Share, cursor: Mapping[str, int], own: bytes) -> Entry:
        return f"head|{share.epoch}", _entry(own, cursor, self._waiting().get((number, ""), ()))

    def _write(self, entries: Mapping[int, Sequence[Entry]], names: Iterable[str]) -> None:
        if entries:
            self._state.write(entries)
        self._judge.saved(names)

    def _rest(self, share: Share, durable: Mapping[str, int]) -> None:
        """A round has ended, or was overtaken by a save of the whole."""
        share.durable, share.moved = dict(durable), False
        share.goal, share.round = None, []
        share.due = self._clock.monotonic() + SAVE_EVERY_S

    def _folded(self) -> Mapping[Partition, int] | None:
        """For the group's gauge, once a second: how far the partitions are folded. Who takes one over goes by its head."""
        self._tell_at = self._clock.monotonic() + TELL_S
        cursors = {(topic, number): at for number, share in self._shares.items() for topic, at in share.cursor.items()}
        told, self._told = self._told, cursors
        return {one: at for one, at in cursors.items() if told.get(one) != at} or None


def _further(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    """Of each topic the later offset: an attempt that was taken over may still be ahead of the cursor."""
    return {topic: max(one.get(topic, 0), other.get(topic, 0)) for topic in one.keys() | other.keys()} if other else one


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
