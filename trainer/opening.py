"""Opens an attachment: the spool, the journal, what the daemon may do, the first event, the line on stderr."""

from __future__ import annotations

import os
import pwd
from shlex import quote
from typing import Any

import msgspec

from .. import __version__
from ..bus import spool_file
from ..bus.control_page import Order
from ..bus.doorbell import Doorbell, hand_over_leftover
from ..bus.process import boot_id, pid_started
from ..bus.spool import Spool
from ..bus.spool_layout import WORD_DRAINED, pread_word
from ..core.clock import Clock
from ..core.errors import SmartTunerError, Unavailable
from ..core.events import RunEvent, Started, encode
from ..core.intent import LrIntent
from .abilities import sharded
from .attachment import Attachment
from .checkpoints import Checkpoints, Parts
from .control import Control
from .cycle import steerings_of
from .direct import SCHEME, Direct, kafka_route
from .effects import Effects
from .endings import ENDINGS
from .gathering import follow, lead, next_table
from .hidden import sweep_hidden
from .journal import Journal, close_owed, last_attempt, last_intent, pruned_before, sweep
from .keep_best import KeepBest
from .late import Late, group_names
from .leading import Leading
from .line import Line
from .raised import described, let_through
from .step_hooks import HOOKS
from .terms import Terms
from .voice import Voice

OFF = "SMART_TUNER_MODE=disabled turns this off"
SDK = __version__
MOST_LEFTOVERS = 16
MOST_SAID_BYTES = 32 * 1024
"""Of a started event: it must fit into the reserve of a full ring."""
MOST_GREETED_BYTES = 16 * 1024
"""Of policies= in the greeting, whose packet is limited too."""


def open_attachment(terms: Terms, parts: Parts, voice: Voice, clock: Clock) -> Attachment:
    """The attachment of `terms`; Unavailable where no spool can be had."""
    first = 0 if terms.resume_from_step is None else terms.resume_from_step + 1
    attachment = Attachment(terms.run, terms.attempt, terms.mode, voice, clock, first)
    table = "" if terms.seat.alone else next_table(terms.seat)
    if terms.seat.rank > 0:
        if terms.mode == "act":
            following = follow(terms, parts, table, attachment, voice, clock)
            late = Late(following.abilities.effects, [parts], attachment.boundary)
            attachment.connect(None, late, lambda: ENDINGS.remove(attachment), following)
            ENDINGS.add(attachment)
        return attachment
    spool_file.sweep(str(terms.spools))
    spool = Spool.create(str(terms.spools), terms.run, terms.attempt, terms.place.address, group=terms.group)
    try:
        leading = None if terms.seat.alone or terms.mode != "act" else Leading(parts, voice)
        line, trouble = _line(terms, parts, spool, attachment, leading, voice, clock)
    except BaseException:
        spool.close(unlink=True)
        raise
    effects = line.control.effects
    late = Late(effects, [parts, effects.checkpoints.parts], attachment.boundary)
    attachment.connect(line, late, lambda: ENDINGS.remove(attachment), leading)
    ENDINGS.add(attachment)
    try:
        for steering in line.steerings:
            HOOKS.add(steering)
    except BaseException:
        attachment.end("failed", "attach did not come to its end")
        raise
    try:
        if leading is not None:
            leading.lead(lead(terms, parts, effects, table, voice, clock), line.control.agreed, line.control.decline)
        voice.say(_announcement(terms, spool, line.bell, trouble))
        attachment.say_warnings()
        if line.journal is not None:
            _stop_again(terms, line.control)
            _say_owed(terms, spool, clock, voice)
        if terms.place.of_system and line.bell.connected:
            _hand_over_leftovers(terms, voice)
    except Exception as error:  # noqa: BLE001  # the attachment stands: what was left of earlier ones must not end it
        let_through(error)
        voice.say(f"something left of earlier runs is not dealt with: {described(error)}")
    return attachment


def _stop_again(terms: Terms, control: Control) -> None:
    """A prune ends an elastic job for good, however often its launcher starts it again."""
    why = pruned_before(terms.spools, terms.run, terms.attempt) if terms.seat.restarts > 0 else None
    if why is not None:
        control.stop_again(Order(f"again-{terms.attempt}", "prune", reason=why), 0)


def _line(
    terms: Terms, parts: Parts, spool: Spool, attachment: Attachment, leading: Leading | None, voice: Voice, clock: Clock
) -> tuple[Line, str]:
    try:
        sweep(terms.spools, clock.now())
        sweep_hidden(terms.folder, clock.now())
        journal: Journal | str = Journal.open(terms.spools, terms.run, terms.attempt, os.getpid(), terms.group)
    except (SmartTunerError, OSError) as error:
        journal = str(error).splitlines()[0]
        voice.say(f"{journal}: checkpoint, restore and prune will be refused")
    if leading is not None:
        parts = leading.shared(parts)
    checkpoints = Checkpoints(terms.folder, terms.run, terms.attempt, parts, clock, terms.limits)
    keep_best = KeepBest(None if sharded(parts.model) else parts.model, clock, terms.best_interval_s, checkpoints.put_aside)
    if terms.monitor and terms.goal and "restore" in terms.allow and terms.mode == "act":
        keep_best.ask(terms.monitor, terms.goal)
    steerings = steerings_of(parts.optimizer, attachment.boundary)
    restored = attachment.told_restored if leading is None else leading.sharing(attachment.told_restored)
    may_restore = "restore" in terms.allow
    effects = Effects(steerings, checkpoints, keep_best, restored, attachment.told_to_stop, may_restore, terms.min_lr)
    control = Control(spool, journal, effects, (terms.mode, terms.allow), clock, voice, terms.on_decision, leading)
    parent = _parent(terms, checkpoints)
    inherited = _inherit(terms, parent, effects, journal, voice)
    _say_started(terms, spool, parent, inherited, effects, voice, clock)
    bell, trouble = _bell(terms, spool, clock, voice)
    return Line(spool, journal if isinstance(journal, Journal) else None, bell, control, keep_best, steerings), trouble


def _inherit(terms: Terms, parent: str | None, effects: Effects, journal: Journal | str, voice: Voice) -> LrIntent | None:
    """Puts the learning rate in force that the attempt left which this one goes on from; says it, as it says of one that is
    not inherited."""
    last = last_attempt(terms.spools, terms.run, terms.attempt)
    before = parent or (last[0] if last else None)
    intent = last_intent(terms.spools, terms.run, before) if before else None
    if intent is None or not (terms.seat.alone or parent is None):  # several ranks take it over together, from the daemon
        return None
    if parent is None or terms.mode != "act" or "lr" not in terms.allow:
        why = "pass resume_from_step= to go on from it" if parent is None else "this job does not allow it"
        voice.say(f"attempt {before} ended with the learning rate {intent}; this one has its own: {why}")
        return None
    effects.want(intent)
    if isinstance(journal, Journal):
        journal.inherit(parent, intent)
    waits = "" if effects.steerings else ", once run.steer(optimizer=...) is called"
    undo = f"undo it with: smart-tuner decide {terms.run} release-lr"
    voice.say(f"the learning rate is {intent} as attempt {parent} left it{waits}; {undo}")
    return intent


def _say_started(
    terms: Terms, spool: Spool, parent: str | None, lr: LrIntent | None, effects: Effects, voice: Voice, clock: Clock
) -> None:
    uid = os.getuid()
    started = Started(
        host=os.uname().nodename,
        user=_user(uid),
        uid=uid,
        boot_id=boot_id(),
        pid=os.getpid(),
        pid_started=pid_started(os.getpid()),
        world_size=terms.seat.world_size,
        parent=parent,
        lr=lr,
        resume_from_step=terms.resume_from_step,
        total_steps=terms.total_steps,
        monitor=terms.monitor,
        goal=terms.goal,
        mode=terms.mode,
        allow=list(terms.allow),
        policies=terms.policies,
        tags=terms.tags,
        config=terms.config,
        keeps_best=bool(effects.keep_best.series),
        script=terms.script,
        sdk=SDK,
        groups=group_names(effects.steerings),
    )
    told = RunEvent(terms.run, terms.attempt, "started", clock.now(), spool.take_position(), terms.group, started=started)
    if len(body := encode(told)) > MOST_SAID_BYTES:
        voice.say(f"config= and tags= take {len(body) // 1024} kB, over {MOST_SAID_BYTES // 1024} kB: they are left out")
        bare = Started(**{name: getattr(started, name) for name in started.__struct_fields__ if name not in ("config", "tags")})
        body = encode(RunEvent(terms.run, terms.attempt, "started", told.time, told.seq, terms.group, started=bare))
    if not spool.event(body):
        raise Unavailable("the spool did not take the run's beginning", "this is a defect: please report it")


def _parent(terms: Terms, checkpoints: Checkpoints) -> str | None:
    """The attempt that this one goes on from: whose checkpoint of that step it is, else the last one of this run here. One
    that an elastic launcher started again goes on from the one before, whatever it says."""
    if terms.resume_from_step is None and terms.seat.restarts <= 0:
        return None
    try:
        if terms.resume_from_step is None:
            raise Unavailable("an elastic launcher started it again")
        return checkpoints.find(terms.resume_from_step)[0].attempt
    except (Unavailable, OSError):
        before = last_attempt(terms.spools, terms.run, terms.attempt)
        return before[0] if before else None


def _say_owed(terms: Terms, spool: Spool, clock: Clock, voice: Voice) -> None:
    """What earlier, dead attempts of this run did not live to answer. Their own positions are over: seq stays -1."""
    for ack in close_owed(terms.spools, terms.run, terms.attempt, clock.now(), lambda ack: spool.event(encode(ack))):
        voice.say(f"decision {ack.id} of attempt {ack.attempt} is answered {ack.status}: {ack.reason or 'as recorded'}")


def _bell(terms: Terms, spool: Spool, clock: Clock, voice: Voice) -> tuple[Doorbell | Direct, str]:
    """The line to a daemon, which dials again once a second while nobody listens; and what is to be said of it. On Kafka the
    job does a daemon's part itself while there is none."""
    folder = terms.place.listener
    hello: dict[str, Any] = {"sdk": SDK, "group": terms.group, "mode": terms.mode, "bus": terms.place.bus}
    if terms.policies and len(msgspec.json.encode(terms.policies)) <= MOST_GREETED_BYTES:
        hello["policies"] = terms.policies
    bell, trouble = None, f"no daemon listens in {folder}"
    try:
        bell = Doorbell.connect(folder, spool, hello, clock)
    except Unavailable as error:
        trouble = str(error).splitlines()[0]
    if bell is not None:
        trouble = ""
    bell = bell or Doorbell(folder, spool, hello, clock)
    if not terms.place.bus.startswith(SCHEME):
        return bell, trouble
    route = kafka_route(terms.place.bus, terms.kafka, str(terms.spools), clock, ENDINGS.stay_first)
    return Direct(bell, spool, route, clock, voice), trouble


def _hand_over_leftovers(terms: Terms, voice: Voice) -> None:
    """A system service cannot look into this user's folder: what dead jobs left there is handed to it."""
    done, daemon = 0, terms.place.listener
    for _, path in spool_file.spool_paths(str(terms.spools)):
        opened = spool_file.open_spool(path)
        if opened is None:
            continue
        fd, identity = opened
        try:
            left = identity.address == terms.place.address and not pread_word(fd, WORD_DRAINED)
            if left and spool_file.is_running(identity) is False and done < MOST_LEFTOVERS:
                done += hand_over_leftover(daemon, path)
        finally:
            os.close(fd)
    if done:
        voice.say(f"{done} earlier runs that had waited were handed to the daemon")


def _announcement(terms: Terms, spool: Spool, bell: Doorbell | Direct, trouble: str) -> str:
    said = f"run {terms.run}"
    if not trouble:
        may = "nothing: it observes" if terms.mode != "act" else ", ".join(terms.allow) or "nothing"
        said += f" -> {terms.place.folder}; a daemon listens (pid {bell.welcome.get('pid', '?')}), it may change: {may}"
    elif terms.place.bus.startswith(SCHEME):
        said += f" -> {terms.place.bus}; {trouble}: this process ships by itself, from {spool.path}"
    else:
        where = "" if terms.place.found_by == "own directory" else f" --data-dir {quote(str(terms.place.folder))}"
        said += f"; {trouble}: what is logged waits in {spool.path}; start one: smart-tuner daemon{where}"
    if not spool.survives_reboot:
        said += "; the spool survives a kill, not a reboot"
    return f"{said}; {OFF}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
