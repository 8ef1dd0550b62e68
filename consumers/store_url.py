"""Where a store lies, from what a person writes: a folder, file://…, or s3://bucket/prefix; and its files for readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.clock import Clock
from ..core.errors import ConfigError, Unavailable
from .file_names import parse_name, split_url, visible_files
from .tenure import Directory, Place

READ_TRIES = 5
"""A file that grows is replaced every few seconds, and read in a fraction of one."""
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


def open_place(url: str | None, data_dir: str, clock: Clock, shared: bool) -> Place:
    """The place of a store for its writer; `shared` where several daemons keep it. Relative folders lie in the data
    directory. ConfigError for a URL that names none."""
    folder = local_folder(url) if url else data_dir
    if folder is not None:
        return Directory(os.path.join(data_dir, os.path.expanduser(folder)), clock, shared)
    from .bucket import Bucket

    return Bucket(str(url), os.path.join(data_dir, CACHE), clock, shared)


def read_each(url: str | os.PathLike[str], table: str, read: Callable[[pq.ParquetFile], pa.Table]) -> Iterator[pa.Table]:
    """What `read` makes of each file of a table, by partition and start. A file of a bucket that was replaced while it was
    read is read again."""
    folder = local_folder(url)
    if folder is None:
        yield from _read_objects(os.fspath(url), table, read)
        return
    path = os.path.join(folder, table)
    for _, _, one in visible_files(path) if os.path.isdir(path) else ():
        with pq.ParquetFile(one) as file:
            yield read(file)


def _read_objects(url: str, table: str, read: Callable[[pq.ParquetFile], pa.Table]) -> Iterator[pa.Table]:
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
                with pq.ParquetFile(system.open_input_file(name), page_checksum_verification=True) as file:
                    done = read(file)
                break
            except (OSError, pa.ArrowException) as error:  # its parts were of two versions
                if not left:
                    raise Unavailable(
                        f"s3://{name}: {error}", "read again; smart-tuner status says whether it is damaged"
                    ) from error
        yield done
