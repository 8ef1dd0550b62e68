"""Stored points as plain columns: numbers, and texts as ranks among the words that occur. What is sorted, cut and spread is
numbers; texts are made of it at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .arrow_columns import numbers, texts, values_of
from .parquet_files import METRICS_SCHEMA

TEXTS = ["run", "attempt", "series", "source"]
_NUMBERS = [name for name in METRICS_SCHEMA.names if name not in TEXTS]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PointColumns:
    """`words`: of each column of texts those that may occur, rising; `ranks`: of each row its place among them; `numbers`:
    the other columns, times in µs since 1970."""

    words: dict[str, list[str]]
    ranks: dict[str, Ints]
    numbers: dict[str, NDArray[np.generic]]

    @classmethod
    def of(cls, table: pa.Table) -> PointColumns:
        """From a table in METRICS_SCHEMA whose texts were read as dictionaries."""
        table = table.unify_dictionaries()
        words: dict[str, list[str]] = {}
        ranks: dict[str, Ints] = {}
        for name in TEXTS:
            chunks = table[name].chunks if len(table) else []
            known = chunks[0].dictionary.to_pylist() if chunks else []
            words[name] = sorted(known)
            place = {word: i for i, word in enumerate(words[name])}
            codes = np.concatenate([values_of(chunk.indices) for chunk in chunks]) if chunks else np.empty(0, np.int64)
            ranks[name] = np.array([place[word] for word in known], np.int64)[codes]
        return cls(words, ranks, {name: values_of(table[name]) for name in _NUMBERS})

    def __len__(self) -> int:
        return len(self.numbers["step"])

    def take(self, rows: NDArray[np.generic]) -> PointColumns:
        """The rows at these places, or those that a mask leaves."""
        ranks = {name: column[rows] for name, column in self.ranks.items()}
        return PointColumns(self.words, ranks, {name: column[rows] for name, column in self.numbers.items()})

    def key(self, *names: str) -> Ints:
        """A number for each row that rises with these texts, the first first."""
        key = np.zeros(len(self), np.int64)
        for name in names:
            count = max(1, len(self.words[name]))
            if len(key) and int(key.max()) >= (1 << 62) // count:
                key = np.unique(key, return_inverse=True)[1]
            key = key * count + self.ranks[name]
        return key

    def sorted(self) -> PointColumns:
        """By run, attempt, series, step and seq."""
        columns = (self.numbers["seq"], self.numbers["step"], self.key("run", "attempt", "series"))
        return self if _rises(columns) else self.take(np.lexsort(columns))

    def table(self) -> pa.Table:
        """A table in METRICS_SCHEMA."""
        columns = []
        for one in METRICS_SCHEMA:
            if one.name in TEXTS:
                codes = numbers(self.ranks[one.name].astype(np.int32))
                columns.append(pa.DictionaryArray.from_arrays(codes, texts(self.words[one.name])).cast(one.type))
            else:
                columns.append(numbers(self.numbers[one.name], one.type))
        return pa.Table.from_arrays(columns, schema=METRICS_SCHEMA)


def _rises(columns: tuple[NDArray[np.generic], ...]) -> bool:
    """Whether rows are in order already, the last column first, as np.lexsort has it."""
    equal = np.ones(max(0, len(columns[0]) - 1), np.bool_)
    for column in reversed(columns):
        if (equal & (column[1:] < column[:-1])).any():
            return False
        equal &= column[1:] == column[:-1]
    return True
