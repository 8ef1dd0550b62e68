"""The handle that attach() returns: what a training loop logs to, asks, and finishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..bus.spool_layout import WORD_ARMED
from ..core.clock import Clock, SystemClock
from ..core.events import RunEvent, encode
from .calm import Calm, hooks
from .leaving import drain, let_go, summary
from .line import Line, Ranks
from .lr import series_of
from .raised import described, exited, let_through
from .step_hooks import HOOKS
from .usual import ORDERED, WANTED, expect
from .values import BEYOND, LOWEST, Intake, step_of
from .voice import Voice

if TYPE_CHECKING:
    from .late import Late

LOOK_INTERVAL_S = 1.0
MOST_WARNINGS = 8


class Attachment:
    """One attempt of a run, as its training process sees it. No method raises into the training.

    `run` and `attempt` name it; `mode` is act, observe or disabled. Without a line (disabled, a full disk, the child of a
    fork) it takes everything and does nothing.
    """

    def __init__(self, run: str, attempt: str, mode: str, voice: Voice, clock: Clock | None = None, first_step: int = 0) -> None:
        self.run, self.attempt, self.mode = run, attempt, mode
        self.failures = 0
        self._clock: Clock = clock or SystemClock()
        self._now = self._clock.now
        self._voice = voice
        self._intake = Intake(voice)
        self._line: Line | None = None
        self._ranks: Ranks | None = None
        self._late: Late | None = None
        self._stop: str | None = None
        self._logged = first_step - 1
        self._calm = Calm()
        self._calm.steps = first_step - 1
        self._usual: Callable[..., int] | None = None
        self._names: tuple[str, ...] = ()
        self._rates: Any = None
        self._rates_step = first_step - 1
        self._at_log = False
        self._by_hand = False
        self._on_end: Callable[[], None] | None = None

    def connect(self, line: Line | None, late: Late, on_end: Callable[[], None], ranks: Ranks | None = None) -> None:
        """Gives the attachment its line (rank 0 has it) and its place among the ranks; `on_end` is called once it has ended."""
        self._line, self._late, self._ranks, self._on_end = line, late, ranks, on_end
        self._at_log = line is not None and not line.steerings
        if line is not None:
            line.control.calm.steps, self._calm = self._calm.steps, line.control.calm
            if hooks is not None:
                self._calm.keep_time(None if type(self._clock) is SystemClock else self._now, LOOK_INTERVAL_S)
                self._usual = self._calm.log
        self._share_calm()

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Values of this step: floats, ints, 0-d tensors, numpy scalars. `step` counts calls where it is left out.

        Waits for nothing, but where the best weights are kept: the monitored series is read at once and a new best
        copies the weights before this returns. Where attach was given no optimizer this is also a step boundary.
        """
        line = self._line
        if line is None:
            return
        usual = self._usual
        if usual is not None and (taken := usual(values, step)):  # raises nothing but an interrupt
            if taken > 1:
                self._heed(line, taken)
            return
        self._log(line, values, step)

    def _log(self, line: Line, values: Mapping[str, Any], step: int | None) -> None:  # noqa: C901  # see the comment on its body
        """Whatever is given, as far as it can be taken."""
        try:  # every line here is paid for at every step: hence no helper where all is as usual
            given = values
            self._unusual()
            time_of = self._now  # loaded and called in one it would be searched for in the class
            now, intake, spool = time_of(), self._intake, line.spool
            if type(step) is not int or not LOWEST < step < BEYOND:
                step = self._logged + 1 if step is None else self._whole(step)
            names, numbers = tuple(values), tuple(values.values())
            for value in numbers:
                if type(value) is not float:
                    values = self._numbers(line, values, step, now)
                    names, numbers = tuple(values), tuple(values.values())
                    break
            self._logged = step
            if step > intake.highest:
                if names != intake.keys:
                    values = intake.turn(values)
                    names, numbers = intake.keys, tuple(values.values())
                intake.highest = step
            else:
                intake.advance(values, step)
            for one in line.steerings:
                groups = one.optimizer.param_groups
                if not groups or groups[0].get("lr") is not one.told:
                    values = self._with_rates(line, values, step)
                    names, numbers = tuple(values), tuple(values.values())
                    break
            if names and spool.log(step, values, now, names, numbers) and spool.words[WORD_ARMED] and spool.armed:
                line.bell.ring()
            if line.keep_best.series:
                line.keep_best.offer(step, values)
            if not 0.0 <= now - self._calm.looked < LOOK_INTERVAL_S:
                self._tend(now)
            calm = self._calm
            if self._at_log and calm.page[0] != calm.expected:
                self._look(line)
            calm.fresh = True
            if self._usual is not None and step == intake.highest:
                self._get_used_to(line, given, names, step)
        except Exception as error:  # noqa: BLE001  # nothing of ours reaches the training
            self._trouble(error)

    def step(self, step: int | None = None) -> None:
        """A step boundary, for a loop that neither has an optimizer nor logs at every step."""
        try:
            calm = self._calm
            self._catch_up()
            calm.steps = calm.steps + 1 if step is None else self._whole(step)
            self.boundary(named=True)
        except Exception as error:  # noqa: BLE001  # nothing of ours reaches the training
            self._trouble(error)

    def steer(self, optimizer: Any = None, *, model: Any = None, scheduler: Any = None, scaler: Any = None) -> None:
        """What was not there when attach was called, or takes the place of what was; as the arguments of attach are."""
        try:
            if self._late is not None:
                self._unusual()
                self._late.give(optimizer=optimizer, model=model, scheduler=scheduler, scaler=scaler)
                self._at_log = self._at_log and (self._line is None or not self._line.steerings)
                self._share_calm()
        except Exception as error:  # noqa: BLE001  # nothing of ours reaches the training
            self._trouble(error)

    @property
    def should_stop(self) -> bool:
        """Whether the loop shall end: a prune was applied."""
        return self._stop is not None

    @property
    def stop_reason(self) -> str | None:
        """Why it shall end, None while it shall not."""
        return self._stop

    def finish(self) -> None:
        """Ends the attempt. On return what was logged is on the daemon's log, or in the spool, and then this says where."""
        self.end("finished")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self.finish()
        elif isinstance(error, SystemExit):
            self.end("failed", exited(error.code))
        else:
            self.end("failed", described(error) if error is not None else kind.__name__)

    def end(self, state: str, ended_by: str | None = None) -> None:
        """Ends the attempt as `state` (finished or failed; a finished run that was told to stop is pruned). Idempotent."""
        line, self._line = self._line, None
        ranks, self._ranks, self._late = self._ranks, None, None
        try:
            self._unusual()
            if ranks is not None:
                ranks.close()
            if line is not None:
                self._end(line, state, ended_by)
        except Exception as error:  # noqa: BLE001  # nothing of ours reaches the training
            self._trouble(error)
        finally:
            on_end, self._on_end = self._on_end, None
            if on_end is not None:
                on_end()

    def _end(self, line: Line, state: str, ended_by: str | None) -> None:
        if state == "finished" and self._stop is not None:
            state, ended_by = "pruned", self._stop
        for steering in line.steerings:
            HOOKS.remove(steering)
        self._take_arrived(line, wait=state != "failed")
        self._event(line, "ended", closing=True, state=state, ended_by=ended_by)
        self._leave(line, state)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in another process (the data set of a spawned worker) or in this one, is as inert as the child of a fork."""
        return Attachment, (self.run, self.attempt, "disabled", Voice(quiet=True))

    def forget(self) -> None:
        """In the child of a fork: the attempt is the parent's, nothing here reaches it any more."""
        line, self._line = self._line, None
        ranks, self._ranks, self._late = self._ranks, None, None
        if ranks is not None:
            ranks.forget()
        if line is not None:
            for steering in line.steerings:
                HOOKS.remove(steering)

    def boundary(self, named: bool = False) -> None:
        """After a step of the optimizer that was given, or one that the loop `named`. One function: each call of another one
        costs a step as much as all that is done here."""
        calm, line = self._calm, self._line
        if not named:
            if self._by_hand:
                return
            calm.steps += 1
        if calm.fresh:
            calm.fresh = False
        elif not 0.0 <= (now := self._now()) - self._calm.looked < LOOK_INTERVAL_S:
            self._tend(now)
        if self._ranks is not None:
            self._ranks.boundary(self._where())
        if line is not None and calm.page[0] != calm.expected:
            self._look(line)

    def step_by_hand(self) -> None:
        """From here on only `step` is a boundary: for a framework in which a step is more than the optimizer's."""
        self._by_hand, self._at_log = True, False
        self._share_calm()

    def _share_calm(self) -> None:
        """Steps of an optimizer that alone makes the boundaries need not call this where nothing is to be done."""
        steerings = self._line.steerings if self._line is not None else []
        alone = len(steerings) == 1 and self._ranks is None and not self._by_hand
        for one in steerings:
            one.calm = self._calm if alone else None

    def completed(self, after: Any, why: str = "") -> None:
        """A checkpoint that was put off (control.Later) is there, or is not, with why."""
        try:
            if self._line is not None:
                self._line.control.complete(after, why)
        except Exception as error:  # noqa: BLE001  # nothing of ours reaches the training
            self._trouble(error)

    def told_to_stop(self, reason: str) -> None:
        """A prune was applied."""
        self._stop = reason

    def told_restored(self, step: int, details: dict[str, Any]) -> None:
        """Weights of `step` were put back."""
        self._unusual()
        self._intake.go_back()
        self._rates_step = LOWEST
        if self._line is not None:
            self._event(self._line, "restored", step=step, details=details)

    @property
    def last_word(self) -> int:
        """Changes with everything that is logged."""
        return self._line.spool.next_position if self._line is not None else -1

    def _catch_up(self) -> None:
        """Takes over what was logged the usual way."""
        taken = None if self._usual is None else self._calm.taken()
        if taken is not None and self._line is not None:
            self._logged = self._intake.highest = taken[0]
            if taken[1] is not None:
                self._rates, self._rates_step = [(taken[1], self._rates[0][1])], taken[0]

    def _get_used_to(self, line: Line, given: Mapping[str, Any], names: tuple[str, ...], step: int) -> None:
        """What came twice in a row may come again: names that alternate are not waited for."""
        if names == self._names:
            expect(line, given, self._intake.keys, step, self._at_log)
        self._names = names

    def _unusual(self) -> None:
        """The next call of log() goes the long way."""
        if self._usual is not None:
            self._catch_up()
            self._calm.off()

    def _heed(self, line: Line, taken: int) -> None:
        """What a call that was taken the usual way asks for beyond it."""
        try:
            if taken & WANTED:
                line.bell.ring_if_armed()
            if taken & ORDERED:
                self._look(line)
        except Exception as error:  # noqa: BLE001  # nothing of ours reaches the training
            self._trouble(error)

    def _look(self, line: Line) -> None:
        """At the control page. What was decided may be about what log() is to do."""
        try:
            line.control.look(self._where)
        finally:
            self._unusual()

    def _where(self) -> int:
        """The job is where it last logged; one that never logs, or names its boundaries, is where its steps are counted."""
        self._catch_up()
        return max(0, self._calm.steps if self._by_hand or self._intake.highest == LOWEST else self._logged)

    def _tend(self, now: float) -> None:
        """About once a second: values that arrived from a device, a daemon that died or came."""
        self._calm.looked = now
        self._catch_up()
        line = self._line
        if line is None:
            return
        line.spool.unlock()
        self._take_arrived(line)
        self._intake.fold()
        line.bell.check()
        self.say_warnings()
        if self._ranks is not None:
            self._ranks.tend(self._where())
        if any(one.overwritten for one in line.steerings):
            self._voice.once("overwritten", "the optimizer writes its learning rate inside its own step: a change may not reach it")
        if HOOKS.failures:
            self._voice.once("hooks", f"something of ours failed around the optimizer's step: {HOOKS.last_failure}")

    def say_warnings(self) -> None:
        """What the daemon finds wrong with what the job said of itself, once each; also one that comes later."""
        found = self._line.bell.welcome.get("warnings") if self._line is not None else None
        for text in found[:MOST_WARNINGS] if isinstance(found, list) else ():
            self._voice.once(f"warning {text}", str(text)[:1000])

    def _take_arrived(self, line: Line, wait: bool = False) -> None:
        try:
            for step, values, time_s in self._intake.arrived(wait):
                line.spool.log(step, values, time_s)
        except Exception as error:  # noqa: BLE001  # a device in error must not take the closing record with it
            self._trouble(error)

    def _numbers(self, line: Line, values: Mapping[str, Any], step: int, now: float) -> Mapping[str, float]:
        """What of `values` is not all floats; also sees what has arrived from a device since."""
        self._intake.watched = line.keep_best.series
        numbers = self._intake.numbers(values, step, now)
        if self._intake.in_flight:
            self._take_arrived(line)
        return numbers

    def _with_rates(self, line: Line, numbers: Mapping[str, float], step: int) -> Mapping[str, float]:
        """Adds `lr` and `lr_effective` where they are not what they were."""
        steerings = line.steerings
        rates = [(each.first(), each.intent) for each in steerings]
        if rates != self._rates:
            told = series_of(steerings) if step > self._rates_step else {}
            if not told:
                return numbers
            self._rates, self._rates_step = rates, step
            numbers = {**told, **numbers}
        for each in steerings:
            each.was_told()
        return numbers

    def _whole(self, step: Any) -> int:
        whole = step_of(step)
        if whole is None:
            self._voice.once(" step", f"step={step!r} is no whole number of 64 bits: calls are counted instead")
            return self._logged + 1
        return whole

    def _event(self, line: Line, event: Any, closing: bool = False, **fields: Any) -> bool:
        spool = line.spool
        told = RunEvent(self.run, self.attempt, event, self._now(), seq=spool.take_position(), group=spool.identity.group, **fields)
        taken = spool.event(encode(told), closing)
        line.bell.ring_if_armed()
        return taken

    def _leave(self, line: Line, state: str) -> None:
        """Waits a little for a daemon to take all, says what changed the run and where the rest waits, lets go."""
        lost = ((self._intake.dropped, "values were no numbers"), (self._intake.repeated, "points came with a step seen before"))
        drained = drain(line, self._clock)
        self._voice.say(summary(self.run, state, self._stop, line, drained, (*lost, (self.failures, "failures of our own"))))
        let_go(line, drained)

    def _trouble(self, error: Exception) -> None:
        let_through(error)
        self.failures += 1
        self._voice.once(f"trouble {type(error).__name__}", f"{described(error)}; the training goes on")
