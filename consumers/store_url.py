"""Where a store lies, from what a person writes: a folder, file://…, or s3://bucket/prefix; and its files for readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.clock import Clock
from ..core.errors import ConfigError, Unavailable
from ..core.ulid import ulid
from .file_names import parse_name, split_url, visible_files
from .tenure import Directory, Place, on_disk

T = TypeVar("T")
READ_TRIES = 5
"""A file that grows is replaced every few seconds, and read in a fraction of one."""
LOCAL = "local"
LOG, NAME = ".log", "log.name"
"""Beside the tables: which log they are filled from. In the data directory: how its local log is called there."""
CACHE = "store-cache"
"""In the data directory: local copies of what grows in a bucket."""


def local_folder(url: str | os.PathLike[str]) -> str | None:
    """The folder that a URL names; None for one in a bucket.

    >>> local_folder("file:///mnt/nfs/my%20runs"), local_folder("s3://bucket/runs")
    ('/mnt/nfs/my runs', None)
    """
    text = os.fspath(url)
    parts = urlsplit(text)
    if parts.scheme == "s3":
        return None
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(f"{text!r} names another host", "mount its folder and write file:///path")
        return unquote(parts.path)
    if "://" in text:
        raise ConfigError(f"a store cannot lie in {text!r}", "write a folder, file:///path or s3://bucket/prefix")
    return text


def open_place(url: str | None, data_dir: str, clock: Clock, shared: bool, log: str = LOCAL) -> Place:
    """The place of a store for its writer; `shared` where several daemons keep it. Relative folders lie in the data
    directory. ConfigError for a URL that names none, and for a store that was filled from another log than `log` names:
    its files say where to go on in offsets of that one."""
    folder = local_folder(url) if url else data_dir
    if url and log == LOCAL:
        log = _named(data_dir, clock)
    if folder is not None:
        folder = os.path.join(data_dir, os.path.expanduser(folder))
        place: Place = Directory(folder, clock, shared)
        found = _noted(folder, log, place)
    else:
        from .bucket import Bucket

        place = bucket = Bucket(str(url), os.path.join(data_dir, CACHE), clock, shared)
        found = bucket.noted(LOG, log)
    if found != log:
        raise ConfigError(
            f"the store in {url or data_dir} was filled from another log ({found}), this daemon reads {log}",
            "name another one under store.url; both are read by pandas as they are",
        )
    return place


def _noted(folder: str, log: str, place: Place) -> str:
    """The log that a folder's store is filled from: `log` where it is new. Version 0.1 noted none, and knew one."""
    path = os.path.join(folder, LOG)
    if not os.path.exists(path):
        _write(path, LOCAL if place.numbers() else log)
    with on_disk(path), open(path, encoding="utf-8") as file:
        return file.read()


def _named(data_dir: str, clock: Clock) -> str:
    """The local log of a data directory, by a name that it keeps: another one counts other offsets."""
    path = os.path.join(data_dir, NAME)
    if not os.path.exists(path):
        with on_disk(data_dir):
            os.makedirs(data_dir, exist_ok=True)
        _write(path, f"{LOCAL} {ulid(clock.now())}")
    with on_disk(path), open(path, encoding="utf-8") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    """Whole or not at all."""
    partial = f"{path}.{os.getpid()}"
    with on_disk(path):
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def read_each(
    url: str | os.PathLike[str], table: str, read: Callable[[pq.ParquetFile], T], encoded: Sequence[str] = ()
) -> Iterator[T]:
    """What `read` makes of each file of a table, by partition and start; the texts named in `encoded` come as dictionaries.
    A file of a bucket that was replaced while it was read is read again."""
    folder = local_folder(url)
    if folder is None:
        yield from _read_objects(os.fspath(url), table, read, list(encoded))
        return
    path = os.path.join(folder, table)
    for _, _, one in visible_files(path) if os.path.isdir(path) else ():
        with pq.ParquetFile(one, read_dictionary=list(encoded)) as file:
            yield read(file)


def _read_objects(url: str, table: str, read: Callable[[pq.ParquetFile], T], encoded: list[str]) -> Iterator[T]:
    from pyarrow import fs

    bucket, prefix = split_url(url)
    try:
        system, path = fs.FileSystem.from_uri(f"s3://{bucket}/{prefix}{table}")
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise Unavailable(f"{url}: {error}", "check AWS_ENDPOINT_URL, the credentials and the bucket") from error
    for _, name in sorted((key, one.path) for one in found if (key := parse_name(one.base_name))):
        for left in reversed(range(READ_TRIES)):
            try:
                opened = system.open_input_file(name)
                with pq.ParquetFile(opened, read_dictionary=encoded, page_checksum_verification=True) as file:
                    done = read(file)
                break
            except (OSError, pa.ArrowException) as error:  # its parts were of two versions
                if not left:
                    raise Unavailable(
                        f"s3://{name}: {error}", "read again; smart-tuner status says whether it is damaged"
                    ) from error
        yield done
