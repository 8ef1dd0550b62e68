"""Checks of the options that policies are built with: a ValueError names the option."""

from __future__ import annotations

import math
from collections.abc import Sequence


def whole(option: str, value: object, least: int, most: int = 1_000_000) -> None:
    """Passes a whole number in [least, most].

    >>> whole("patience", "six", 1)
    Traceback (most recent call last):
    ValueError: patience: 'six' is not a whole number of 1 to 1000000
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{option}: {value!r} is not a whole number of {least} to {most}")


def number(option: str, value: object, least: float, below: float = math.inf, above: float | None = None) -> None:
    """Passes a finite number in [least, below), or in (above, below) where `above` is given."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{option}: {value!r} is not a finite number")
    if not (least if above is None else above) <= value < below or value == above:
        low = f"at least {least:g}" if above is None else f"above {above:g}"
        raise ValueError(f"{option}: {value!r} is not {low}{'' if below == math.inf else f' and below {below:g}'}")


def choice(option: str, value: object, known: Sequence[object]) -> None:
    """Passes one of the words in `known`."""
    if value not in known:
        raise ValueError(f"{option}: {value!r} is not one of {', '.join(str(one) for one in known if one is not None)}")


def truth(option: str, value: object) -> None:
    """Passes true and false only: "no" is a word, and true."""
    if not isinstance(value, bool):
        raise ValueError(f"{option}: {value!r} is neither true nor false")


def evaluations(n: int) -> str:
    """A count for a sentence.

    >>> evaluations(1), evaluations(4)
    ('1 evaluation', '4 evaluations')
    """
    return f"{n} evaluation{'' if n == 1 else 's'}"
