"""Arrow columns without `pa.array` and `to_numpy`: these import pandas where it is installed, a second and 50 MB that
neither the daemon nor a command needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numbers(values: NDArray[Any], form: pa.DataType | None = None) -> pa.Array:
    """Numbers as a column of `form` (same width), without a copy.

    >>> numbers(np.array([1, 2])).to_pylist()
    [1, 2]
    """
    values = np.ascontiguousarray(values)
    form = form or pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(form, len(values), [None, pa.py_buffer(values)])


def texts(words: Iterable[str | None]) -> pa.Array:
    """Texts as a column.

    >>> texts(["a", None]).to_pylist()
    ['a', None]
    """
    builder = pa.lib.StringBuilder()
    for word in words:
        builder.append(word)
    return builder.finish()


def column(values: Sequence[Any], form: pa.DataType) -> pa.Array:
    """Texts or numbers, some of them None, as a column.

    >>> column([1.5, None], pa.float64()).to_pylist()
    [1.5, None]
    """
    if pa.types.is_string(form):
        return texts(values)
    known = np.array([value is not None for value in values], np.bool_)
    kind = np.float64 if pa.types.is_floating(form) else np.int64
    filled = np.array([0 if value is None else value for value in values], kind)
    bitmap = np.packbits(known, bitorder="little")
    return pa.Array.from_buffers(form, len(values), [pa.py_buffer(bitmap), pa.py_buffer(filled)])


def table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; what a row has no word of is null."""
    return pa.Table.from_arrays([column([row.get(one.name) for row in rows], one.type) for one in schema], schema=schema)


def with_all(table: pa.Table, fields: Iterable[pa.Field]) -> pa.Table:
    """The table with those of its columns that its file, which an earlier version wrote, has not: nulls.

    >>> with_all(pa.table([texts(["r"])], names=["run"]), pa.schema([("run", pa.string()), ("n", pa.int64())])).to_pylist()
    [{'run': 'r', 'n': None}]
    """
    for one in fields:
        if one.name not in table.column_names:
            table = table.append_column(one, column([None] * len(table), one.type))
    return table


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table; times as µs since 1970."""
    columns = [one.cast(pa.int64()) if pa.types.is_timestamp(one.type) else one for one in table.columns]
    rows: list[dict[str, Any]] = pa.table(columns, names=table.column_names).to_pylist()
    return rows


def values_of(column: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
    """A column of numbers without nulls, times as µs.

    >>> values_of(numbers(np.array([1, 2, 3])).slice(1)).tolist()
    [2, 3]
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    kind = np.dtype("int64" if pa.types.is_timestamp(column.type) else str(column.type).replace("double", "float64"))
    parts = [np.frombuffer(one.buffers()[1], kind, len(one), one.offset * kind.itemsize) for one in chunks if len(one)]
    return np.concatenate(parts) if parts else np.empty(0, kind)
