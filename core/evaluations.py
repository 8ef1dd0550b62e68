"""How many points of a series there were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .window import Floats, Ints


class EvaluationsMeasure:
    """Column: count, of the points up to this one, over the whole attempt; a restore changes nothing."""

    key = "evaluations()"
    __slots__ = ("_count",)
    names = ("count",)

    def __init__(self) -> None:
        self._count = 0

    def point(self, step: int, value: float) -> tuple[int]:
        self._count += 1
        return (self._count,)

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        count = np.arange(self._count + 1, self._count + 1 + len(values))
        self._count = int(count[-1])
        return {"count": count}

    @classmethod
    def fold_many(cls, many: Sequence[EvaluationsMeasure], steps: Ints, values: Floats, ends: Ints) -> Mapping[str, NDArray[Any]]:
        before = np.array([one._count for one in many])
        for one, n in zip(many, (ends + 1).tolist(), strict=True):
            one._count += n
        return {"count": before[:, None] + np.arange(1, values.shape[1] + 1)}

    def new_segment(self) -> None:
        """See the class."""

    def dump(self) -> dict[str, Any]:
        return {"count": self._count}

    def load(self, state: Mapping[str, Any]) -> None:
        self._count = state["count"]
