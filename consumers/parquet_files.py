"""Parquet files as Smart Tuner keeps them: visible ones only appear, or are replaced by a version with all their rows.

A file is written where no reader looks, made durable and put in its place by who holds its partition (tenure.py). What is
written is plain: one fixed schema a folder, plain strings, page checksums. What the store must know of a file after a crash
(the offset its rows end at, and the like) stands in the file's own metadata, so that no second store can disagree with it.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import ConfigError, CorruptData
from .tenure import Tenure, on_disk

VERSION = 1
_VERSION_KEY, _FACTS_KEY = b"smarttuner.version", b"smarttuner"
_TIME = pa.timestamp("us", tz="UTC")

_PRUNED = ("time", "run", "attempt", "series", "step", "id", "action", "status", "state")
"""Columns that people filter by. Statistics of the others would only make every footer longer, and every read slower."""

METRICS_SCHEMA = pa.schema(
    [
        ("time", _TIME),
        ("run", pa.string()),
        ("attempt", pa.string()),
        ("series", pa.string()),
        ("step", pa.int64()),
        ("value", pa.float64()),
        ("source", pa.string()),
        ("seq", pa.int64()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
    ]
)
RUNS_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("attempt", pa.string()),
        ("attempt_number", pa.int64()),
        ("state", pa.string()),
        ("ended_by", pa.string()),
        ("user", pa.string()),
        ("host", pa.string()),
        ("group", pa.string()),
        ("tags", pa.string()),
        ("config", pa.string()),
        ("resumed_from_step", pa.int64()),
        ("monitor", pa.string()),
        ("goal", pa.string()),
        ("started", _TIME),
        ("ended", _TIME),
        ("total_steps", pa.int64()),
        ("policies", pa.string()),
    ]
)
DECISIONS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("time", _TIME),
        ("run", pa.string()),
        ("attempt", pa.string()),
        ("step", pa.int64()),
        ("action", pa.string()),
        ("params", pa.string()),
        ("policy", pa.string()),
        ("mode", pa.string()),
        ("reason", pa.string()),
        ("evidence", pa.string()),
        ("not_after", _TIME),
        ("status", pa.string()),
        ("refused_by", pa.string()),
        ("applied_step", pa.int64()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("latency_ms", pa.float64()),
    ]
)


def _options(schema: pa.Schema) -> dict[str, Any]:
    texts = [one.name for one in schema if pa.types.is_string(one.type)]
    whole = [one.name for one in schema if pa.types.is_integer(one.type) or pa.types.is_timestamp(one.type)]
    return {
        "write_page_checksum": True,
        "compression": "snappy",
        "use_dictionary": texts,  # an encoding inside the file; the schema below says plain strings
        "column_encoding": dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
        "write_statistics": [one.name for one in schema if one.name in _PRUNED],
        "store_schema": False,  # else an Arrow dictionary array, cheap to write, reads back as one and pandas stops pruning
    }


def _metadata(facts: object) -> dict[str, str]:
    return {_VERSION_KEY.decode(): str(VERSION), _FACTS_KEY.decode(): msgspec.json.encode(facts).decode()}


def read_facts(path: str, footer: str | pa.NativeFile | None = None) -> tuple[dict[str, Any], int]:
    """The facts in a file's metadata (read from `footer` where that lies elsewhere) and its number of rows. CorruptData for
    bytes that are no file of ours, ConfigError for a file of a newer version, FileNotFoundError where there is none."""
    try:
        metadata = pq.read_metadata(path if footer is None else footer)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise CorruptData(f"{path}: {error}", "it is set aside and its rows are read again from the bus") from error
    said = metadata.metadata or {}
    version = said.get(_VERSION_KEY, b"")
    if version.isdigit() and int(version) > VERSION:
        raise ConfigError(
            f"{path} has version {int(version)}, and this Smart Tuner knows {VERSION}",
            "install the newer version again, or start with another --data-dir",
        )
    try:
        facts: dict[str, Any] = msgspec.json.decode(said[_FACTS_KEY])
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptData(f"{path}: written by somebody else", "keep other files out of this folder") from error
    return facts, metadata.num_rows


def verify(path: str) -> None:
    """Reads every page against its checksum; CorruptData names what does not agree."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise CorruptData(f"{path}: {error}", "it is set aside and its rows are read again from the bus") from error


def write_file(tenure: Tenure, path: str, schema: pa.Schema, groups: Iterable[pa.Table], facts: object) -> None:
    """Writes a whole file, a row group for each table, and puts it in place of what was there. Unavailable on a full disk,
    Fenced where the tenure is over."""
    with tenure.replacing(path) as hidden, pa.OSFile(hidden, "wb") as sink:
        _write_groups(sink, schema, groups, facts=facts)
        os.fsync(sink.fileno())


def _write_groups(
    sink: pa.NativeFile, schema: pa.Schema, groups: Iterable[pa.Table], *, facts: object = None, source: int = -1, end: int = 4
) -> None:
    """Writes a file to `sink`, behind bytes [4, end) of the file `source`; its footer knows the new row groups only."""
    rest = iter(groups)
    first = next(rest, None)
    # Texts may come as Arrow dictionaries: the same bytes in the file, which names them plain strings all the same.
    form = first.schema if first is not None else schema
    with pq.ParquetWriter(sink, form, **_options(schema)) as writer:
        # The writer takes its offsets from the sink's position: what stands before its first row group may be ours.
        _copy(source, sink.fileno() if end > 4 else -1, 4, end - 4)
        for group in chain([first], rest) if first is not None else ():
            writer.write_table(group, row_group_size=max(1, len(group)))
        if facts is not None:
            writer.add_key_value_metadata(_metadata(facts))


class GrowingFile:
    """A visible file that grows by being replaced with longer versions of itself.

    What is frozen is copied as bytes (a shared extent where the file system can), only what is new is encoded: the new
    version is the old bytes up to the footer, new row groups, and a footer over both. Rows that are not frozen yet are
    handed in again at the next `publish` and so join larger row groups.
    """

    def __init__(self, tenure: Tenure, path: str, schema: pa.Schema) -> None:
        self.path = path
        self._tenure = tenure
        self.rows = 0
        self._schema = schema
        self._metadata: pq.FileMetaData | None = None
        self._end = 4  # behind the magic bytes that open every file
        self._source = -1
        self._closing: weakref.finalize[[int], GrowingFile] | None = None

    @classmethod
    def resume(cls, tenure: Tenure, path: str, schema: pa.Schema) -> GrowingFile:
        """Goes on with a file that is there; all its rows count as frozen."""
        one = cls(tenure, path, schema)
        with on_disk(path):
            there = tenure.whole(path)
            one._hold(os.open(there, os.O_RDONLY))
            one._metadata = pq.read_metadata(there)
            one._end = _footer_start(one._source)
        one.rows = one._metadata.num_rows
        return one

    @property
    def groups(self) -> int:
        """Row groups that are frozen; they come first in the file."""
        return self._metadata.num_row_groups if self._metadata is not None else 0

    @property
    def size(self) -> int:
        """Bytes that are copied at each publish."""
        return self._end

    def publish(self, groups: Sequence[pa.Table], facts: object, freeze: bool) -> None:
        """Replaces the visible file by frozen rows + `groups`; with `freeze` these are handed in no more."""
        fd = -1
        try:
            with self._tenure.replacing(self.path) as hidden:
                with pa.OSFile(hidden, "wb") as sink:
                    _write_groups(sink, self._schema, groups, source=self._source, end=self._end)
                fd = os.open(hidden, os.O_RDWR)
                end = _footer_start(fd)
                whole = self._footer(hidden, facts)
                os.ftruncate(fd, end)
                _write_all(fd, _footer_bytes(whole), end)
                os.fsync(fd)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        self.close()
        self._hold(fd)
        if freeze:
            self._metadata, self._end, self.rows = whole, end, whole.num_rows

    def _footer(self, hidden: str, facts: object) -> pq.FileMetaData:
        """The footer over the frozen row groups and those of the file just written, with new facts."""
        empty = pa.BufferOutputStream()
        _write_groups(empty, self._schema, (), facts=facts)
        whole = pq.read_metadata(pa.BufferReader(empty.getvalue()))
        if self._metadata is not None:
            whole.append_row_groups(self._metadata)
        whole.append_row_groups(pq.read_metadata(hidden))
        return whole

    def close(self) -> None:
        """Lets the descriptor go; the file stays as it is."""
        if self._closing is not None:
            self._closing()
            self._source, self._closing = -1, None

    def _hold(self, fd: int) -> None:
        self._source = fd
        self._closing = weakref.finalize(self, os.close, fd)


def _footer_start(fd: int) -> int:
    size = os.fstat(fd).st_size
    return size - 8 - int.from_bytes(os.pread(fd, 4, size - 8), "little")


def _footer_bytes(metadata: pq.FileMetaData) -> bytes:
    out = pa.BufferOutputStream()
    metadata.write_metadata_file(out)
    return bytes(out.getvalue())[4:]  # without the magic bytes of a file of its own


def _write_all(fd: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _copy(source: int, target: int, offset: int, count: int) -> None:
    """Copies `count` bytes from `offset` of one descriptor to the position of another, inside the kernel."""
    shared = True
    while count:
        try:
            done = os.copy_file_range(source, target, count, offset) if shared else os.sendfile(target, source, offset, count)
        except OSError as error:
            if not shared or error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV):
                raise
            shared = False  # a file system or kernel without copy_file_range
            continue
        if not done:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        offset, count = offset + done, count - done
