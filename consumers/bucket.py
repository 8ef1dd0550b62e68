"""A store in a bucket: the same files as objects, whose replacement passes only over the version that its holder knows.

S3 renames nothing and locks nothing, but puts with a condition: `If-None-Match: *` for an object that must be new, `If-Match`
for one that must be the version that this holder wrote or found when it took the partition over. So of two holders that write
the same object one is refused, and its memory is void (`Fenced`). New files are reached from old ones alone: a metrics file
begins where a sealed one ends, and a full file of runs/ or decisions/ names the next before that is made. So whoever is late
meets a condition that fails before it can make an object that its successor does not know.

What grows is written whole at each publish, from a copy on the local disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from ..core.clock import Clock
from ..core.errors import ConfigError, CorruptData, Unavailable
from ..core.ulid import ulid
from .file_names import DAMAGED, TABLES, file_name, parse_damaged, parse_name, split_url
from .tenure import Fenced, on_disk

PUBLISH_EVERY_S = 10.0
"""A publish writes a whole object, and a bucket asks money for each."""
FOOTER_BYTES = 1 << 16
"""Read of a file whose facts alone are wanted; a longer footer is read again."""
CONNECT_S, READ_S = 5, 30
_REFUSED = ("PreconditionFailed", "412")
_GONE = ("NoSuchKey", "404", "NotFound")


class Bucket:
    """A store under `url` (s3://bucket/prefix), with copies of what grows under the local folder `cache`. Credentials,
    region and endpoint are found where every AWS tool looks (AWS_ENDPOINT_URL for another server)."""

    publish_s = PUBLISH_EVERY_S
    metrics: str | None = None

    def __init__(self, url: str, cache: str, clock: Clock, shared: bool = False) -> None:
        self.bucket, self.prefix = split_url(url)
        self.shared = shared
        self.client = _client()
        self._clock, self._cache = clock, cache
        shutil.rmtree(cache, ignore_errors=True)

    def keys(self, prefix: str) -> Iterator[dict[str, Any]]:
        """The objects (Key, ETag, Size) whose names begin so, behind the store's own prefix."""
        with answered(f"s3://{self.bucket}/{self.prefix}{prefix}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            for page in pages:
                yield from page.get("Contents", ())

    def numbers(self) -> set[int]:
        """The partitions that have files."""
        names = [one["Key"].rsplit("/", 1)[1] for table in TABLES for one in self.keys(f"{table}/")]
        return {key[0] for name in names if (key := parse_name(name) or parse_damaged(name))}

    def noted(self, name: str, text: str) -> str:
        """What the small object `name` says; `text` where it is new."""
        key = {"Bucket": self.bucket, "Key": self.prefix + name}
        with suppress(Fenced), answered(f"s3://{self.bucket}/{key['Key']}", 0):
            self.client.put_object(**key, Body=text.encode(), IfNoneMatch="*")
            return text
        with answered(f"s3://{self.bucket}/{key['Key']}"):
            body: bytes = self.client.get_object(**key)["Body"].read()
        return body.decode(errors="replace")

    def take(self, number: int) -> BucketTenure:
        """Holds a partition as its objects are now."""
        return BucketTenure(self, number, os.path.join(self._cache, f"{number}.{ulid(self._clock.now())}"))


class BucketTenure:
    """A hold on one partition of a bucket. Paths lie in a local folder that mirrors it as far as was needed."""

    leftovers = 0
    held = True
    """Nobody is told: the next publish shows it."""

    def __init__(self, bucket: Bucket, number: int, folder: str) -> None:
        self.number = number
        self._bucket, self._folder = bucket, folder
        self._found: dict[str, dict[int, str]] = {table: {} for table in TABLES}
        self._aside: dict[str, dict[int, list[str]]] = {table: {} for table in TABLES}
        self._etags: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        with on_disk(folder):
            for table in TABLES:
                os.makedirs(os.path.join(folder, table))
                self._list(table)

    def _list(self, table: str) -> None:
        """Once, at the beginning: a version that was not known then is somebody else's."""
        for one in self._bucket.keys(f"{table}/{self.number}-"):
            name = one["Key"].rsplit("/", 1)[1]
            key = parse_name(name)
            if key:
                path = os.path.join(self._folder, table, name)
                self._found[table][key[1]] = path
                self._etags[path], self._sizes[path] = one["ETag"], one["Size"]
        for one in self._bucket.keys(f"{table}/{DAMAGED}{self.number}-"):
            name = one["Key"].rsplit("/", 1)[1]
            key = parse_damaged(name)
            if key:
                self._aside[table].setdefault(key[1], []).append(os.path.join(self._folder, table, name))

    def files(self, table: str) -> list[tuple[int, str]]:
        """(start, path) of the visible files of a table, by start."""
        return sorted(self._found[table].items())

    def aside(self, table: str) -> dict[int, list[str]]:
        """The paths of the files that were set aside, by start."""
        return self._aside[table]

    def path(self, table: str, start: int) -> str:
        """Where a file belongs."""
        return os.path.join(self._folder, table, file_name(self.number, start))

    def footer(self, path: str) -> str | pa.NativeFile:
        """The end of an object, if it is not on the local disk."""
        if os.path.exists(path):
            return path
        tail = self._get(path, FOOTER_BYTES)
        if len(tail) < 12:
            raise CorruptData(f"{path}: {len(tail)} bytes", "it is set aside and its rows are read again from the bus")
        length = int.from_bytes(tail[-8:-4], "little") + 8
        return pa.BufferReader(tail if length <= len(tail) else self._get(path, length))

    def whole(self, path: str) -> str:
        """The local copy, fetched where there is none."""
        if not os.path.exists(path):
            partial = path + ".part"
            with on_disk(path), open(partial, "wb") as file:
                file.write(self._get(path))
            os.replace(partial, path)
        return path

    def _get(self, path: str, last: int | None = None) -> bytes:
        part = {} if last is None or last >= self._sizes[path] else {"Range": f"bytes=-{last}"}
        with answered(self._url(path), self.number):
            found = self._bucket.client.get_object(**self._object(path), IfMatch=self._etags[path], **part)
            body: bytes = found["Body"].read()
        return body

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return self._sizes[path]

    @contextmanager
    def replacing(self, path: str) -> Iterator[str]:
        """A local path to write to: on success that is the object, if nobody else has written it since."""
        hidden = f"{path}.new"
        try:
            with on_disk(path):
                yield hidden
                self._put(hidden, path)
                os.replace(hidden, path)
        finally:
            with suppress(OSError):
                os.unlink(hidden)

    def _put(self, hidden: str, path: str) -> None:
        condition = {"IfMatch": self._etags[path]} if path in self._etags else {"IfNoneMatch": "*"}
        with answered(self._url(path), self.number), open(hidden, "rb") as file:
            done = self._bucket.client.put_object(**self._object(path), Body=file, **condition)
        table, name = path.split(os.sep)[-2:]
        self._etags[path], self._sizes[path] = done["ETag"], os.path.getsize(hidden)
        key = parse_name(name)
        if key:
            self._found[table][key[1]] = path
        if table == "metrics":  # of the sealed ones no copy is needed
            for other in self._found[table].values():
                if other != path:
                    with suppress(FileNotFoundError):
                        os.unlink(other)

    def set_aside(self, path: str) -> str:
        """Gives a damaged object a hidden name; its local path."""
        folder, name = os.path.split(path)
        table, start = os.path.basename(folder), (parse_name(name) or (0, 0))[1]
        known = self._aside[table].setdefault(start, [])
        target = os.path.join(folder, f"{DAMAGED}{name}" + (f".{len(known)}" if known else ""))
        with answered(self._url(path), self.number):
            source = {"Bucket": self._bucket.bucket, "Key": self._object(path)["Key"]}
            self._bucket.client.copy_object(**self._object(target), CopySource=source, CopySourceIfMatch=self._etags[path])
        known.append(target)
        self.remove(path)
        return target

    def remove(self, path: str) -> None:
        """Deletes an object, if nobody else has written it since."""
        condition = {"IfMatch": self._etags[path]} if path in self._etags else {}
        with answered(self._url(path), self.number):
            self._bucket.client.delete_object(**self._object(path), **condition)
        table = path.split(os.sep)[-2]
        self._found[table] = {start: other for start, other in self._found[table].items() if other != path}
        self._etags.pop(path, None)
        with suppress(FileNotFoundError):
            os.unlink(path)

    def release(self) -> None:
        """Drops the local copies."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _object(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket.bucket, "Key": self._bucket.prefix + "/".join(path.split(os.sep)[-2:])}

    def _url(self, path: str) -> str:
        return "s3://{Bucket}/{Key}".format(**self._object(path))


def _client() -> Any:
    try:
        from boto3.session import Session
        from botocore.config import Config
    except ImportError as error:
        raise ConfigError("a store in a bucket needs boto3", "pip install 'smart-tuner[s3]'") from error
    retries = {"max_attempts": 3, "mode": "standard"}
    return Session().client("s3", config=Config(retries=retries, connect_timeout=CONNECT_S, read_timeout=READ_S))


@contextmanager
def answered(what: str, number: int | None = None) -> Iterator[None]:
    """Errors of the server inside become ours: Fenced where somebody else wrote, Unavailable for all that may pass."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if number is not None and code in (*_REFUSED, *_GONE):
            raise Fenced(number, what) from error
        raise Unavailable(f"{what}: {error}", "check the bucket's name and policy and the credentials; the rows wait") from error
    except BotoCoreError as error:
        raise Unavailable(f"{what}: {error}", "check AWS_ENDPOINT_URL, the credentials and the network; the rows wait") from error
