"""An axis: from values to places in [0, 1], and the values that are worth a tick."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PADDING = 0.04
"""Of the axis, beyond the least and the greatest value."""
_SAME = 1e-12
"""A span below this part of its values cannot be told apart on an axis."""
_TINY, _HUGE = 1e-290, 1.7e308
"""Where floats end, nearly: what is beyond stands at the edge."""


@dataclass(frozen=True)
class Axis:
    """From `low` at 0 to `high` at 1, both finite and low < high; on a logarithmic one 0 < low."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, low: float, high: float, *, log: bool = False, padding: float = PADDING) -> Axis:
        """An axis that shows all from `low` to `high` (finite; positive where it is logarithmic), and more where they are
        one value.

        >>> Axis.over(0.0, 100.0), Axis.over(3.0, 3.0, padding=0)
        (Axis(low=-4.0, high=104.0, log=False), Axis(low=1.5, high=4.5, log=False))
        """
        if log:
            bottom, top = math.log10(max(low, _TINY)), math.log10(max(high, _TINY))
            less = padding * (top - bottom) if top - bottom > _SAME else 0.5
            return cls(10.0 ** (bottom - less), 10.0 ** min(top + less, 308.0), True)
        half, most = high / 2 - low / 2, max(abs(low), abs(high))
        less = padding * half * 2 if half > max(_SAME * most, _TINY) else (most / 2 if most > 4 * _TINY else 1.0)
        return cls(max(low - less, -_HUGE), min(high + less, _HUGE))

    def place(self, value: float) -> float:
        """Where a value stands, 0 at `low` and 1 at `high`.

        >>> Axis(0.0, 8.0).place(2.0), Axis(1.0, 100.0, log=True).place(10.0)
        (0.25, 0.5)
        """
        return float(self.places(np.array([value]))[0])

    def places(self, values: Floats) -> Floats:
        """Where values stand, those beyond the axis at its ends; NaN where they are not finite or, on a logarithmic axis, not
        above 0."""
        can_be_shown = np.isfinite(values) & ((values > 0) if self.log else True)
        values = np.clip(np.where(can_be_shown, values, self.low), self.low, self.high)
        if self.log:
            first = math.log10(self.low)
            found = (np.log10(values) - first) / (math.log10(self.high) - first)
        else:  # halves: a span may be beyond the floats
            found = (values / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return np.where(can_be_shown, np.clip(found, 0.0, 1.0), np.nan)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """At most `most` values (two at least) with their labels, rising.

        >>> [label for _, label in Axis(0.0, 1.0).ticks()]
        ['0', '0.2', '0.4', '0.6', '0.8', '1.0']
        >>> [label for _, label in Axis(0.05, 2e4, log=True).ticks()]
        ['0.1', '1', '10', '100', '1000', '10000']
        >>> [label for _, label in Axis(2.0, 30.0, log=True).ticks()]
        ['2', '5', '10', '20']
        """
        if self.log and self.high >= 5 * self.low:
            return [(value, f"{value:.12g}") for value in self._powers(most)]
        values, unit = self._round(most)
        return list(zip(values, _labels(values, unit), strict=True))

    def _round(self, most: int) -> tuple[list[float], float]:
        """Round values, and their distance: 1, 2 or 5 times a power of ten."""
        wanted = (self.high / 2 - self.low / 2) * (2 / most)
        power = math.floor(math.log10(wanted))
        for factor in (1, 2, 5, 10, 20):
            unit = float(f"{factor}e{power}")
            first, last = math.ceil(self.low / unit), math.floor(self.high / unit)
            if last - first < most:
                break
        return [float(f"{i * factor}e{power}") for i in range(first, last + 1)], unit

    def _powers(self, most: int) -> list[float]:
        bottom, top = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1, 2, 5), (1,)):
            found = [float(f"{factor}e{power}") for power in range(bottom, top + 1) for factor in factors]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]


def _labels(values: list[float], unit: float) -> list[str]:
    """Labels with as many digits as tell neighbours apart.

    >>> _labels([0.0, 2e9], 2e9), _labels([-0.05, 0.0], 0.05), _labels([1500.0], 500.0)
    (['0', '2e+09'], ['-0.05', '0'], ['1500'])
    """
    most = max(map(abs, values), default=0.0)
    if not values or 1e-4 <= most < 1e9:
        decimals = max(0, -math.floor(math.log10(unit)))
        return [f"{value:.{decimals}f}" if value else "0" for value in values]
    digits = max(0, math.floor(math.log10(most)) - math.floor(math.log10(unit)))
    return [f"{value:.{digits}e}" if value else "0" for value in values]
