"""How the store's files are called: `<partition>-<offset of the first row>.parquet`, in three folders or prefixes of a bucket."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from ..core.errors import ConfigError

TABLES = ("metrics", "runs", "decisions")
DAMAGED = ".damaged-"
"""What a file is called that was set aside; like every name with a leading dot it is skipped by Parquet readers."""
_NAME = re.compile(r"(\d+)-(\d{20})\.parquet")


def file_name(partition: int, start: int) -> str:
    """The name of the file of a partition whose rows begin at offset `start`.

    >>> file_name(0, 17)
    '0-00000000000000000017.parquet'
    """
    return f"{partition}-{start:020d}.parquet"


def parse_name(name: str) -> tuple[int, int] | None:
    """(partition, start offset) of a file's name; None for a name that is not ours."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def parse_damaged(name: str) -> tuple[int, int] | None:
    """(partition, start offset) of the name of a file that was set aside; None for every other name.

    >>> parse_damaged(".damaged-0-00000000000000000017.parquet.1")
    (0, 17)
    """
    found = _NAME.match(name[len(DAMAGED) :]) if name.startswith(DAMAGED) else None
    return (int(found[1]), int(found[2])) if found else None


def visible_files(folder: str) -> list[tuple[int, int, str]]:
    """(partition, start, path) of each visible file of ours, in that order."""
    found = [(parse_name(name), name) for name in os.listdir(folder)]
    return sorted((*key, os.path.join(folder, name)) for key, name in found if key)


def split_url(url: str) -> tuple[str, str]:
    """(bucket, prefix that ends with a slash or is empty) of an s3:// URL.

    >>> split_url("s3://models/team/a/")
    ('models', 'team/a/')
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query:
        raise ConfigError(f"{url!r} names no bucket", "write s3://bucket/prefix; another server is named by AWS_ENDPOINT_URL")
    path = parts.path.strip("/")
    return parts.netloc, f"{path}/" if path else ""
