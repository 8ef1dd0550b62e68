"""Where a store lies, from what a person writes: a folder, file://…, or s3://bucket/prefix; and its files for readers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from ..core.clock import Clock
from ..core.errors import ConfigError, Unavailable
from .file_names import parse_name, split_url, visible_files
from .tenure import Directory, Place

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


def files_of(url: str | os.PathLike[str], table: str) -> Iterator[Any]:
    """What pyarrow opens of a table, by partition and start: paths, or files in a bucket."""
    folder = local_folder(url)
    if folder is not None:
        path = os.path.join(folder, table)
        yield from (one for _, _, one in visible_files(path)) if os.path.isdir(path) else ()
        return
    from pyarrow import fs

    bucket, prefix = split_url(os.fspath(url))
    try:
        system, path = fs.FileSystem.from_uri(f"s3://{bucket}/{prefix}{table}")
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        names = sorted((key, one.path) for one in found if (key := parse_name(one.base_name)))
        for _, one in names:
            yield system.open_input_file(one)
    except OSError as error:
        raise Unavailable(f"{url}: {error}", "check AWS_ENDPOINT_URL, the credentials and the bucket") from error
