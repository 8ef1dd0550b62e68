"""What a job logs, turned into numbers: floats at once, tensors on an accelerator when their copy has arrived."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from .raised import let_through
from .voice import Voice

MOST_IN_FLIGHT = 4096
MOST_SERIES = 20_000
MOST_SHAPES = 512
LONGEST = 256
LOWEST, BEYOND = -(1 << 63) - 1, 1 << 63
"""Below and above all steps."""


class Copy(Protocol):
    """A value on its way from the device."""

    def arrived(self) -> bool: ...
    def value(self) -> float: ...


class InFlight(NamedTuple):
    """Copies of one log() call, with its step and time."""

    step: int
    time_s: float
    copies: dict[str, Copy]


class PinnedCopy:
    """A CUDA scalar, copied into pinned memory behind the work that computes it: no sync, and later writes to the tensor
    do not reach the copy."""

    def __init__(self, tensor: Any) -> None:
        import torch

        one = tensor.detach()
        self._host = torch.empty((), dtype=one.dtype, device="cpu", pin_memory=True)
        self._host.copy_(one.reshape(()), non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(one.device))

    def arrived(self) -> bool:
        """Whether the copy is complete; asks the driver, waits for nothing. While this thread captures a graph nothing is asked:
        the question would end the capture (CUDA's guide, "CUDA Graphs", prohibited and unhandled operations)."""
        import torch

        return not torch.cuda.is_current_stream_capturing() and bool(self._event.query())

    def value(self) -> float:
        """The number; waits for it where it has not arrived."""
        self._event.synchronize()
        return float(self._host.item())


class Intake:
    """The values of one attachment. `watched` are the series that are read with a sync, because the best weights must be
    caught while they are still those that were measured. `keys` are the names that came with the highest step so far:
    comparing them is all that the usual call pays for noticing steps that repeat."""

    def __init__(self, voice: Voice, copy: Callable[[Any], Copy] = PinnedCopy) -> None:
        self.watched: tuple[str, ...] = ()
        self.dropped = 0
        self.repeated = 0
        self._voice = voice
        self._copy = copy
        self._in_flight: deque[InFlight] = deque()
        self.highest = LOWEST
        self.keys: tuple[str, ...] = ()
        self._shapes: dict[tuple[str, ...], int] = {}
        self._last: dict[str, int] = {}

    def numbers(self, values: Mapping[Any, Any], step: int, time_s: float) -> dict[str, float]:
        """The values that are numbers now. Those still on a device come out of `arrived` later; others are dropped, with
        one warning a key."""
        ready: dict[str, float] = {}
        copies: dict[str, Copy] = {}
        for key, value in values.items():
            name = key if isinstance(key, str) else str(key)
            if getattr(value, "is_cuda", False) and name not in self.watched and value.numel() == 1:
                copies[name] = self._copy(value)
                continue
            number = number_of(value)
            if number is None or not 0 < len(name) <= LONGEST:
                self._drop(name, value)
            else:
                ready[name] = number
        if copies:
            if len(self._in_flight) >= MOST_IN_FLIGHT:
                self.dropped += len(self._in_flight.popleft().copies)
                self._voice.once(" in flight", f"over {MOST_IN_FLIGHT} log() calls wait for the device: the oldest are dropped")
            self._in_flight.append(InFlight(step, time_s, copies))
        return ready

    def arrived(self, wait: bool = False) -> list[tuple[int, dict[str, float], float]]:
        """(step, values, time) of the calls whose copies are complete, in order; with `wait`, of all of them."""
        done = []
        while self._in_flight and (wait or all(copy.arrived() for copy in self._in_flight[0].copies.values())):
            step, time_s, copies = self._in_flight.popleft()
            done.append((step, {name: copy.value() for name, copy in copies.items()}, time_s))
        return done

    @property
    def in_flight(self) -> bool:
        """Whether a device still owes values."""
        return bool(self._in_flight)

    def advance(self, names: Mapping[str, Any], step: int) -> None:
        """Notes the step of each series where `step` is not above all that came before. One that a series has seen
        already is counted, and told once."""
        self.fold(0)
        last = self._last
        for name in names:
            before = last.get(name)
            if before is not None and step <= before:
                self.repeated += 1
                self._voice.once(
                    " repeated",
                    f"step {step} of {name!r} does not go on from {before}: stored, but not judged. Does each epoch count from 0, "
                    "or was a cell run again? Pass a step that rises through the whole run, or attach anew",
                )
            else:
                last[name] = step

    def turn(self, values: Mapping[Any, float]) -> Mapping[str, float]:
        """Another set of names comes with the steps above all others from now on; `values` under names that can be used."""
        if not all(isinstance(name, str) and 0 < len(name) <= LONGEST for name in values):
            values = self.numbers(values, 0, 0.0)  # they are floats: no step or time is noted for a device
        self._shapes[self.keys] = self.highest
        self.keys = tuple(values)
        return values

    def fold(self, most: int = MOST_SHAPES) -> None:
        """Keeps what is remembered of past steps small: one step a series, once there are over `most` sets of names."""
        self._shapes[self.keys] = self.highest
        if len(self._shapes) > most:
            for names, step in list(self._shapes.items()):  # another thread may log
                for name in names:
                    self._last[name] = max(step, self._last.get(name, step))
            self._shapes.clear()
            if len(self._last) > MOST_SERIES:
                self._last.clear()

    def go_back(self) -> None:
        """After a restore the steps may begin again."""
        self._shapes.clear()
        self._last.clear()
        self.highest, self.keys = LOWEST, ()

    def _drop(self, name: str, value: Any) -> None:
        self.dropped += 1
        what = (
            f"is no number but {type(value).__name__}" if 0 < len(name) <= LONGEST else f"is no name of 1 to {LONGEST} characters"
        )
        said = name if len(name) <= 64 else name[:61] + "..."
        self._voice.once(f"value {name}", f"{said!r} {what}: it is dropped, here and from now on")


def number_of(value: Any) -> float | None:
    """A number, a 0-d tensor or a numpy scalar as a float; None for what is none. Text is none, whatever it spells."""
    try:
        if isinstance(value, str | bytes | bytearray | dict):
            return None
        if hasattr(value, "item"):
            value = value.item()
        return float(value)
    except Exception as error:  # noqa: BLE001  # what an object of the job's raises when it is asked for a number is the job's affair
        let_through(error)
        return None


def step_of(step: Any) -> int | None:
    """A step as an int that 64 bits hold: ints, integral floats, numpy and tensor scalars; None for what is none."""
    try:
        if hasattr(step, "item"):
            step = step.item()
        if isinstance(step, float) and step.is_integer():
            step = int(step)
        whole = operator.index(step)
    except Exception as error:  # noqa: BLE001  # as above
        let_through(error)
        return None
    return whole if -(1 << 63) <= whole < 1 << 63 else None


def plain(tree: Any, depth: int = 6) -> Any:
    """`tree` (a config, tags) as JSON can hold it: what is no plain value becomes its text, at most 200 characters."""
    if tree is None or isinstance(tree, bool):
        return tree
    for kind in (int, float, str):  # a subclass (numpy.float64, an enum) as what it is underneath
        if isinstance(tree, kind):
            bare = kind(tree)
            return str(bare) if isinstance(bare, int) and abs(bare) >= 1 << 63 else bare
    if depth > 0:
        if isinstance(tree, Mapping):
            return {str(key): plain(value, depth - 1) for key, value in tree.items()}
        if isinstance(tree, list | tuple | set | frozenset):
            return [plain(value, depth - 1) for value in tree]
        if hasattr(tree, "item") and (number := number_of(tree)) is not None:
            return number
    return str(tree)[:200]
