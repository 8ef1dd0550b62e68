"""The job's end of the loop: at a step boundary, what the daemon wants is applied and answered, or refused with a reason."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from ..bus.control_page import Order
from ..bus.spool import Spool
from ..core.clock import Clock
from ..core.errors import Forbidden, SmartTunerError
from ..core.events import Ack, encode
from ..core.standing import LR_ACTIONS, PERMISSION
from .calm import Calm
from .effects import Change, Effects
from .journal import Journal
from .raised import let_through, of_handler, text_of
from .voice import Voice

ONE_SHOTS = ("checkpoint", "restore", "prune")
IN_THIS_ORDER = (*LR_ACTIONS, "keep-best", *ONE_SHOTS)
MOST_ANSWERS = 1024
MOST_REASON_CHARACTERS = 500
_NEVER = -1
"""What no revision is."""


class Answered(msgspec.Struct, frozen=True):
    """What `on_decision` is called with. `reason` is why it was decided, `why` what the job has to say about it."""

    id: str
    action: str
    params: dict[str, Any]
    reason: str
    status: str
    step: int | None
    before: Any
    after: Any
    why: str


class Later(Exception):
    """Raised by a save of the job's: its framework saves at the end of this step, and `Control.complete` answers then."""


class Peers(Protocol):
    """The other ranks of the run, where it has several."""

    @property
    def idle(self) -> bool: ...
    def propose(self, orders: list[Order]) -> None: ...
    def go(self, order: Order) -> None: ...
    def done(self, ack: Ack) -> None: ...


class Control:
    """Reads the control page of one attempt and answers each order once, on the training thread: whichever steps the
    optimizer, else the one that attached. `calm` tells a boundary whether there is anything to look for."""

    def __init__(
        self,
        spool: Spool,
        journal: Journal | str,
        effects: Effects,
        permissions: tuple[str, tuple[str, ...]],
        clock: Clock,
        voice: Voice,
        on_decision: Callable[[Answered], object] | None = None,
        peers: Peers | None = None,
    ) -> None:
        """`journal` is one, or why there is none; `permissions` are the mode and what `allow=` named. With `peers` an order
        waits until they have agreed, and comes back through `agreed` or `decline`."""
        self.changes: deque[Answered] = deque(maxlen=MOST_ANSWERS)
        self.effects = effects
        self._spool = spool
        self._journal = journal
        self._mode, self._allow = permissions
        self._clock = clock
        self._voice = voice
        self._on_decision = on_decision
        self._peers = peers
        self.calm = Calm(spool.page.words, spool)
        self._seen = 0
        self._thread = threading.get_ident()
        self._busy = False
        self._begun: set[str] = set()
        self._known: dict[str, Ack] = {}
        self._unsent: dict[str, Ack] = {}  # at most as many as the page has slots
        self._waiting: dict[str, Order] = {}  # for the peers; as many at most
        self._proposed: set[str] = set()
        self._quiet: set[str] = set()
        self._later: tuple[Order, int] | None = None

    def look(self, where: Callable[[], int]) -> None:
        """Answers what is new, says again what found no room. `where` tells at which step the job is."""
        revision = self._spool.revision()
        if self._busy:
            return
        if not self.effects.steerings and threading.get_ident() != self._thread:
            return
        self._busy = True  # a callback of the job's may log, which looks again
        try:
            step = where()
            if revision != self._seen or self._unsent:
                self._seen = revision
                for waiting in list(self._unsent.values()):
                    self._send(waiting)
                for order in sorted(self._spool.orders(), key=_rank):
                    if order.id not in self._unsent and order.id not in self._proposed:
                        self._answer(order, step)
            if self._peers is not None and self._waiting and self._peers.idle:
                waiting_now, self._waiting = list(self._waiting.values()), {}
                self._proposed |= {order.id for order in waiting_now}
                self._peers.propose(waiting_now)
        except BaseException as error:
            self._look_again_after(error)
            raise
        finally:
            self._busy = False
            self.calm.expected = _NEVER if self._unsent or self._waiting else self._seen - self._spool.page.torn

    def stop_again(self, order: Order, step: int) -> None:
        """A prune of this job from before its elastic restart holds on; no daemon waits for an answer."""
        self._quiet.add(order.id)
        if self._peers is not None:
            self._waiting[order.id] = order
            self.calm.expected = _NEVER
        else:
            self._try(order, step)

    def agreed(self, order: Order, step: int) -> None:
        """Every rank does it now."""
        self._proposed.discard(order.id)
        self._busy = True
        try:
            self._try(order, step, self._peers)
        except BaseException as error:
            self._look_again_after(error)
            raise
        finally:
            self._busy = False

    def _look_again_after(self, error: BaseException) -> None:
        """What an interrupt has left without an answer gets one at the next boundary; what a fault of ours has, when there is
        something new."""
        if not isinstance(error, Exception) or of_handler(error) is not None:
            self._seen = self.calm.expected = _NEVER

    def complete(self, after: Any, why: str = "") -> None:
        """Answers what was put off with Later: applied, with what there is `after`, or failed, with why."""
        if self._later is not None:
            (order, step), self._later = self._later, None
            ack = self._ack(order, "failed" if why else "applied", step, Change(after=after, note=why))
            self._record(order, ack)
            self._close(order, ack)

    def decline(self, order: Order, status: Any, why: str, step: int) -> None:
        """The ranks did not agree."""
        self._proposed.discard(order.id)
        self._close(order, self._ack(order, status, step, Change(note=why)))

    def _answer(self, order: Order, step: int) -> None:
        known = self._known.get(order.id)
        if known is None and isinstance(self._journal, Journal):
            known = self._journal.answered(order.id)
        if known is not None:
            self._send(known)
        elif self._peers is not None and order.action != "keep-best" and self._refusal(order) is None:
            self._waiting[order.id] = order
        else:
            self._try(order, step)

    def _try(self, order: Order, step: int, peers: Peers | None = None) -> None:
        try:
            ack = self._conclude(order, step, peers)
        except Later:
            self._later = order, step
            self._proposed.add(order.id)  # it stands on the page until it is answered
        else:
            self._close(order, ack)

    def _close(self, order: Order, ack: Ack) -> None:
        self._proposed.discard(order.id)
        self._known[order.id] = ack
        if len(self._known) > MOST_ANSWERS:
            del self._known[next(iter(self._known))]
        if order.id in self._quiet:
            self._note_said(order.id)
        else:
            self._send(ack)
        self._tell(order, ack)

    def _conclude(self, order: Order, step: int, peers: Peers | None = None) -> Ack:
        """The order's effect, or why there is none. `peers` have agreed on it: only they can still call it off."""
        refusal = None if peers is not None else self._refusal(order)
        if refusal is not None:
            return self._ack(order, refusal[0], step, Change(note=refusal[1]))
        try:
            if order.action in ONE_SHOTS:
                self._begin(order, step)
            if peers is not None:
                peers.go(order)
            status, change = "applied", self.effects.apply(order, step)
        except Later:
            raise
        except Forbidden as error:
            status, change = "refused", Change(note=_one_line(error))
        except Exception as error:  # noqa: BLE001  # whatever fails in an effect, the user's own functions included, is an answer
            let_through(error)
            status, change = "failed", Change(note=_one_line(error))
        ack = self._ack(order, status, step, change)
        if peers is not None:
            peers.done(ack)
        self._record(order, ack)
        return ack

    def _record(self, order: Order, ack: Ack) -> None:
        steered = order.action in LR_ACTIONS and ack.status == "applied"
        if (order.id in self._begun or steered) and isinstance(self._journal, Journal):
            try:
                self._journal.answer(ack, self.effects.intent if steered else None)
            except SmartTunerError as error:
                let_through(error)
                self._voice.once("journal", _one_line(error))

    def _refusal(self, order: Order) -> tuple[str, str] | None:
        """(status, reason) for an order that is not to be tried."""
        if order.id in self._begun:
            return "failed", "interrupted"
        if order.action not in IN_THIS_ORDER:
            return "refused", "unknown action"
        if order.not_after and self._clock.now() > order.not_after:
            return "expired", "the job came to it too late"
        if self._mode != "act":
            return "refused", "the job was attached with mode=observe"
        if PERMISSION.get(order.action) not in self._allow:
            return "refused", f"the job does not allow {PERMISSION.get(order.action, order.action)}"
        return None

    def _begin(self, order: Order, step: int) -> None:
        if not isinstance(self._journal, Journal):
            raise Forbidden(f"it could not be journaled: {self._journal}")
        self._journal.begin(order.id, order.action, order.params, step, self._clock.now())
        self._begun.add(order.id)

    def _ack(self, order: Order, status: Any, step: int, change: Change) -> Ack:
        spool = self._spool
        return Ack(
            order.id,
            spool.run,
            spool.attempt,
            status,
            self._clock.now(),
            group=spool.identity.group,
            step=step,
            before=change.before,
            after=change.after,
            reason=change.note[:MOST_REASON_CHARACTERS],
        )

    def _send(self, ack: Ack) -> None:
        """Into the spool; what finds no room there is said again at a later boundary, and its slot stays taken."""
        if not self._spool.event(encode(msgspec.structs.replace(ack, seq=self._spool.take_position()))):
            self._unsent[ack.id] = ack
            self.calm.expected = _NEVER
            return
        self._unsent.pop(ack.id, None)
        self._note_said(ack.id)
        self._spool.answered(ack.id)

    def _note_said(self, order_id: str) -> None:
        if isinstance(self._journal, Journal) and self._journal.answered(order_id) is not None:
            try:
                self._journal.said(order_id)
            except SmartTunerError as error:
                let_through(error)
                self._voice.once("journal", _one_line(error))

    def _tell(self, order: Order, ack: Ack) -> None:
        said = Answered(order.id, order.action, order.params, order.reason, ack.status, ack.step, ack.before, ack.after, ack.reason)
        if ack.status == "applied" and order.action != "keep-best":
            self.changes.append(said)
        if self._on_decision is not None:
            try:
                self._on_decision(said)
            except Exception as error:  # noqa: BLE001  # the job's own function: its failure is told, the training goes on
                let_through(error)
                self._voice.once("on_decision", f"on_decision raised {_one_line(error)}")


def _rank(order: Order) -> int:
    return IN_THIS_ORDER.index(order.action) if order.action in IN_THIS_ORDER else len(IN_THIS_ORDER)


def _one_line(error: Exception) -> str:
    if isinstance(error, SmartTunerError):
        return error.message + (f" ({error.hint})" if error.hint else "")
    return f"{type(error).__name__}: {text_of(error)}".replace("\n", " ")
